"""The processes of a run: how they meet and part, on what device, in what precision."""

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import cache
from itertools import count
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import ProjectConfiguration
from torch.distributed.distributed_c10d import PrefixStore, Store, _get_default_store
from torch.distributed.rendezvous import rendezvous

from pixart.models.precision import in_tf32

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
PATIENCE = timedelta(minutes=10)  # for ranks of which one still writes while the others begin the next job
_MEETINGS = count()


@contextmanager
def launched(
    *, precision: Literal["fp32", "bf16", "fp16"], tf32: bool, deterministic: bool, tracker: str, run_dir: Path
) -> Iterator[Accelerator]:
    """The Accelerator of this process; afterwards all is as before, and the next job of a sweep may begin.

    Raises:
        ValueError: fp16 without a GPU, or a launcher that started more processes than came together.
    """
    meeting = next(_MEETINGS)  # first of all: a rank whose job fails must not lag behind the others' count
    on_cpu = not torch.cuda.is_available()
    if on_cpu and precision == "fp16":
        raise ValueError("precision=fp16 needs a GPU: set precision=fp32 or bf16")
    with ExitStack() as undone:
        undone.enter_context(in_tf32(tf32))
        undone.enter_context(_deterministic(deterministic))
        undone.callback(_forget)
        _meet(meeting, on_cpu=on_cpu)
        # Without cpu=True Accelerate makes, of two CPU processes under a launcher, two runs of one process each.
        accelerator = Accelerator(
            cpu=on_cpu,
            mixed_precision=PRECISIONS[precision],
            log_with=None if tracker == "none" else tracker,
            project_config=ProjectConfiguration(project_dir=str(run_dir), logging_dir=str(run_dir / "logs")),
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)],
        )
        undone.callback(accelerator.free_memory)
        undone.callback(accelerator.end_training)
        _refuse_strays(accelerator)
        yield accelerator


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """Inside, torch computes so that the bits are the same every time, or need not; afterwards as before."""
    were = "CUBLAS_WORKSPACE_CONFIG"
    before, workspace = torch.are_deterministic_algorithms_enabled(), os.environ.get(were)
    torch.use_deterministic_algorithms(wanted)
    if wanted:
        os.environ.setdefault(were, ":4096:8")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        if workspace is None:
            os.environ.pop(were, None)


def _refuse_strays(accelerator: Accelerator) -> None:
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != accelerator.num_processes:
        raise ValueError(
            f"the launcher started {started} processes and {accelerator.num_processes} came together: on CPU use "
            "'torchrun --nproc_per_node N train.py …' or 'accelerate launch --multi_gpu --num_processes N train.py …'"
        )


@cache
def _rendezvous() -> tuple[Store, int, int]:
    """The store that all processes of this launch share, this one's rank and their number; asked for once a launch."""
    store, rank, world_size = next(rendezvous("env://"))
    return store, rank, world_size


def _meet(meeting: int, *, on_cpu: bool) -> None:
    """Make the process group, if a launcher started several processes.

    Each ``meeting`` has keys of its own in the store: a later job of a sweep would find the addresses of an earlier
    one's processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    if not on_cpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store, rank, world_size = _rendezvous()
    _wait_for_all(PrefixStore(f"waiting_{meeting}", store), rank, world_size)
    dist.init_process_group(
        "gloo" if on_cpu else "cpu:gloo,cuda:nccl",
        store=PrefixStore(f"meeting_{meeting}", store),
        rank=rank,
        world_size=world_size,
    )


def _wait_for_all(store: Store, rank: int, world_size: int) -> None:
    """``ValueError`` naming the ranks that do not come: without it each would say, much later, that time is up."""
    keys = [f"rank_{other}" for other in range(world_size)]
    store.set(keys[rank], "")
    try:
        store.wait(keys, PATIENCE)
    except RuntimeError:
        missing = [other for other, key in enumerate(keys) if not store.check([key])]
        store.delete_key(keys[rank])  # who comes now is not to believe that this one is still here
        raise ValueError(
            f"{named(missing)} did not come within {PATIENCE.total_seconds():g} s: look at what is said there, and "
            "that all machines run the same command"
        ) from None


def named(ranks: Sequence[int]) -> str:
    """``rank 3``, ``ranks 0-7 and 12``."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    words = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return f"rank{'s' if len(ranks) > 1 else ''} {' and '.join(words)}"


def _forget() -> None:
    """Leave the process group, and no trace of it in Accelerate's shared states or in memory."""
    if dist.is_initialized():
        dist.destroy_process_group()
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def meeting_store(purpose: str) -> Store | None:
    """A store that the processes of the present meeting share, with keys of its own; None for a process alone."""
    if not dist.is_initialized():
        return None
    return PrefixStore(purpose, _get_default_store())


def told_by_first(place: Path) -> Path:
    """The folder of rank 0, on all ranks: one with the time of day in its name is another one on each of them."""
    store = meeting_store("place")
    if store is None:
        return place
    if dist.get_rank() == 0:
        store.set("path", str(place))
    return Path(store.get("path").decode())
