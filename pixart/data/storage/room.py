"""Room for shards in a folder of bounded size: given under one lock, made by taking away the longest unused."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX
from pathlib import Path
from threading import Event
from time import monotonic
from typing import NamedTuple

from pixart.data.storage.fetch import PARTIAL
from pixart.data.storage.locks import is_at, lock, wait

FULL = (errno.ENOSPC, errno.EDQUOT)
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
_LOCK_NAME = ".room"
_PATIENCE = 60.0  # seconds for another process to look through the folder


class Held(NamedTuple):
    """A file of the folder."""

    used: int  # when it was used last, in nanoseconds
    size: int  # bytes
    path: Path


class NoRoom(Exception):
    """All that could make room is in use."""

    def __init__(self, held: list[Held], full: OSError | None):
        super().__init__()
        self.held = held
        self.full = full  # where it is the disk that is full, and not the folder


class Room:
    """The room in a folder that all processes together fill with no more than ``limit`` bytes."""

    def __init__(self, folder: Path, limit: int):
        self.folder = folder
        self.limit = limit  # bytes

    def reserve(self, descriptor: int, size: int, spared: frozenset[Path]) -> None:
        """Give the open, locked file ``size`` bytes, which count from now on.

        Files that nobody reads and that are not ``spared`` are taken away for it, the longest unused first. Raises
        ``NoRoom`` where they are too few.
        """
        with self._locked():
            if os.fstat(descriptor).st_size:  # what a killed process left
                os.ftruncate(descriptor, 0)
            held = self._held()
            while sum(file.size for file in held) + size > self.limit:
                if not _taken(held, spared):
                    raise NoRoom(held, None)
            while (error := _allocate(descriptor, size)) is not None:
                if not _taken(held, spared):
                    raise NoRoom(held, error)

    def take_one(self, spared: frozenset[Path]) -> bool:
        """Take one file away, and say whether there was one that could be."""
        with self._locked():
            return _taken(self._held(), spared)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        path = self.folder / _LOCK_NAME
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        until = monotonic() + _PATIENCE
        try:
            while not lock(descriptor, LOCK_EX):
                if monotonic() > until:
                    raise ValueError(f"{path} stays locked: end the process that holds it, which seems to be stopped")
                wait(Event())
            yield
        finally:
            os.close(descriptor)

    def _held(self) -> list[Held]:
        """All files of the folder; what killed processes left is removed."""
        held = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    path = Path(entry.path)
                    if entry.name.endswith(PARTIAL) and _take(path):
                        continue
                    stat = path.stat()
                    held.append(Held(stat.st_mtime_ns, stat.st_size, path))
        return held


def _taken(held: list[Held], spared: frozenset[Path]) -> bool:
    """Take the longest unused of ``held`` away that can be, from the disk and from the list; whether there was one."""
    for file in sorted(held):
        if file.path.name.startswith(".") or file.path in spared:
            continue
        with suppress(FileNotFoundError):
            if not _take(file.path):
                continue
        held.remove(file)
        return True
    return False


def _take(path: Path) -> bool:
    """Remove a file that no process has locked."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if not (lock(descriptor, LOCK_EX) and is_at(descriptor, path)):
            return False
        path.unlink()
        return True
    finally:
        os.close(descriptor)


def _allocate(descriptor: int, size: int) -> OSError | None:
    """Take ``size`` bytes of the disk, at once where it can; the error where it is full."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno in FULL:
            return error
        if error.errno not in _UNSUPPORTED:
            raise
        os.ftruncate(descriptor, size)
    return None
