"""The folder of a run as all its processes see it."""

import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

from pixart.training.processes.launch import named
from pixart.training.processes.preflight import everywhere
from pixart.training.processes.ranks import Ranks

TOKENS = ".preflight"


@contextmanager
def untouched(ranks: Ranks, folder: Path) -> Iterator[None]:
    """Whatever is made of ``folder`` or in it meanwhile goes again; no other process may write there."""
    before = ranks.from_first({entry.name for entry in folder.iterdir()} if folder.is_dir() else None)
    parents = [parent for parent in (folder, *folder.parents) if ranks.from_first(not parent.exists())]
    try:
        yield
        ranks.gathered(None)  # the others have let go of it
    finally:
        if ranks.is_first:
            for entry in folder.iterdir() if folder.is_dir() else ():
                if entry.name not in (before or ()):
                    _remove(entry)
            for parent in parents:
                with suppress(OSError):
                    parent.rmdir()


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        entry.unlink(missing_ok=True)


def share_disk(ranks: Ranks, folder: Path, hosts: Sequence[str], *, patience: timedelta) -> None:
    """See that what rank 0 writes in ``folder`` all others see, and the reverse; nothing of it stays.

    Raises:
        ValueError: some do not, within ``patience``: a network's disk may take its time.
    """
    token = ranks.from_first(uuid.uuid4().hex)
    place = folder / TOKENS
    mend = f"run_dir {folder} must be one folder for all machines: set run_dir=… to where every one of them mounts it"
    try:
        everywhere(ranks, lambda: _write(place / "0", token) if ranks.is_first else None)
        seen = everywhere(ranks, lambda: _seen(place / "0", token, patience))
        blind = [rank for rank, sees in enumerate(seen) if not sees]
        if blind:
            raise ValueError(
                f"{named(blind)} on {_and(hosts, blind)} cannot see what rank 0 on {hosts[0]} writes: {mend}"
            )
        everywhere(ranks, lambda: _write(place / str(ranks.rank), token))
        unseen = ranks.from_first(
            [rank for rank in range(ranks.size) if ranks.is_first and not _seen(place / str(rank), token, patience)]
        )
        if unseen:
            raise ValueError(
                f"rank 0 on {hosts[0]} cannot see what {named(unseen)} on {_and(hosts, unseen)} write: {mend}"
            )
    finally:
        ranks.gathered(None)  # nobody looks any more
        shutil.rmtree(place, ignore_errors=True)


def _and(hosts: Sequence[str], ranks: Sequence[int]) -> str:
    return " and ".join(dict.fromkeys(hosts[rank] for rank in ranks))


def _write(file: Path, token: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as out:
        out.write(token)
        out.flush()
        os.fsync(out.fileno())


def _seen(file: Path, token: str, patience: timedelta) -> bool:
    deadline = time.monotonic() + patience.total_seconds()
    while True:
        with suppress(OSError):
            if file.read_text() == token:
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
