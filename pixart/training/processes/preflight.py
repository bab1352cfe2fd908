"""Checks before the first step: what would otherwise be found out hours later, or by a process that waits for ever.

Each check tells what it found, or raises one ``ValueError`` on all ranks alike: none is left waiting for another.
"""

import os
import resource
import shutil
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist

from pixart.training.processes.launch import named
from pixart.training.processes.ranks import Ranks

NUMBERS = 1 << 22  # float32: 16 MiB, about what DDP sends at a time

T = TypeVar("T")


class Place(NamedTuple):
    """Where a rank is."""

    host: str
    device: str
    identity: str  # of a GPU; empty for a CPU, which ranks may share
    memory: int  # bytes of the device


class _Failure(NamedTuple):
    sentence: str


def everywhere(ranks: Ranks, work: Callable[[], T]) -> list[T]:
    """What ``work`` gives on each rank; one ``ValueError`` on all of them where it fails on any."""
    mine: T | _Failure
    try:
        mine = work()
    except (OSError, ValueError, RuntimeError) as error:
        mine = _Failure(" ".join(f"{'' if isinstance(error, ValueError) else type(error).__name__} {error}".split()))
    told = ranks.gathered(mine)
    failures = defaultdict[str, list[int]](list)
    for rank, one in enumerate(told):
        if isinstance(one, _Failure):
            failures[one.sentence].append(rank)
    if failures:
        alike = len(failures) == 1 and len(next(iter(failures.values()))) == ranks.size
        raise ValueError("; ".join(s if alike else f"{s} (on {named(who)})" for s, who in failures.items()))
    return [one for one in told if not isinstance(one, _Failure)]


def places(ranks: Ranks, device: torch.device) -> list[Place]:
    """Where each rank is; ``ValueError`` where two of them share a GPU."""
    found = everywhere(ranks, lambda: _place(device))
    holders = defaultdict[tuple[str, str], list[int]](list)
    for rank, place in enumerate(found):
        holders[place.host, place.identity].append(rank)
    for (host, identity), who in holders.items():
        if identity and len(who) > 1:
            raise ValueError(
                f"{named(who)} share one GPU of {host}: start as many processes a machine as it has GPUs, and leave "
                "CUDA_VISIBLE_DEVICES alone or give each its own"
            )
    return found


def _place(device: torch.device) -> Place:
    host = socket.gethostname()
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        return Place(host, about.name, str(about.uuid), int(about.total_memory))
    return Place(host, device.type, "", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def add_up(ranks: Ranks, device: torch.device) -> float:
    """Seconds that an all-reduce of ``NUMBERS`` takes, 0 for one process; ``ValueError`` where its sum is wrong."""

    def work() -> float:
        seconds = []
        for _ in range(3):  # the first one also connects
            numbers = torch.full((NUMBERS,), float(ranks.rank + 1), device=device)
            started = time.perf_counter()
            dist.all_reduce(numbers)
            low, high = numbers.aminmax()  # waits for the device
            expected = ranks.size * (ranks.size + 1) / 2
            if (float(low), float(high)) != (expected, expected):
                raise ValueError(
                    f"an all-reduce of 1 to {ranks.size} gives {float(low):g} to {float(high):g}, not {expected:g}: "
                    "the network or a device is broken, so try other machines, or NCCL_P2P_DISABLE=1"
                )
            seconds.append(time.perf_counter() - started)
        return min(seconds)

    return 0.0 if ranks.size == 1 else max(everywhere(ranks, work))


def same(ranks: Ranks, facts: Mapping[str, str], *, mend: str) -> None:
    """``ValueError`` naming what of ``facts`` is not on all ranks as on rank 0, and the ``mend``."""
    told = ranks.gathered(dict(facts))
    different = []
    for fact in dict.fromkeys(fact for one in told for fact in one):
        values = [one.get(fact) for one in told]
        other = next((rank for rank, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            different.append(f"{fact} is {values[other]} on rank {other} and {values[0]} on rank 0")
    if different:
        raise ValueError(f"{'; '.join(different)}: {mend}")


def enough_of_machine(ranks: Ranks, *, shared_memory: int, files: int) -> None:
    """See that the loader's workers will get what they need of this machine.

    Args:
        shared_memory: bytes that all ranks of one machine together hold in /dev/shm.
        files: that one process holds open at a time.
    """

    def work() -> None:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if limit != resource.RLIM_INFINITY and limit < files:
            raise ValueError(
                f"a process may open {limit} files here and needs about {files}: say 'ulimit -n {2 * files}' first"
            )
        free = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else shared_memory
        if free < shared_memory:
            raise ValueError(
                f"/dev/shm of {socket.gethostname()} has {free / 2**20:.0f} MiB left and the loader's workers need "
                f"about {shared_memory / 2**20:.0f}: lower data.workers, or give the container more (--shm-size)"
            )

    everywhere(ranks, work)
