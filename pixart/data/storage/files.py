"""Shards as files: those of a local folder, kept open, and reading from any of them through faults that pass."""

import os
import stat
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from time import sleep
from typing import Protocol

from pixart.data.storage.index_table import Shard

_OPEN_FILES = 64  # kept open by a process
_TRIES = 5
_PAUSE = 0.1  # seconds after the first try, doubled from one to the next


def tars_of(root: Path) -> dict[str, os.stat_result]:
    """The ``*.tar`` in the folder ``root``, by name, sorted; ``ValueError`` where one is no file, which may be linked.

    A pipe would be waited for without end.
    """
    return {path.name: _regular(path) for path in sorted(root.glob("*.tar"))}


def _regular(path: Path) -> os.stat_result:
    try:
        found = path.stat()
    except OSError as error:  # a link to nothing, or to itself
        raise ValueError(f"{path} is no file ({error.strerror}): mend the link, or take it away") from error
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path} is a {_kind(found.st_mode)} and no file: take it away, or give it another name")
    return found


def _kind(mode: int) -> str:
    return "folder" if stat.S_ISDIR(mode) else "pipe" if stat.S_ISFIFO(mode) else "device or socket"


class Files(Protocol):
    """Shards that can be opened, by their place in the index."""

    def name(self, shard: int) -> str:
        """Where a shard lies, for people."""

    def open(self, shard: int) -> int:
        """A descriptor to read from, the size of its file being that of the index; ``ValueError`` if it cannot be."""

    def close(self, descriptor: int) -> None:
        """Give back what ``open`` gave."""

    def forget(self, shard: int) -> None:
        """Open a shard anew, or fetch it anew, when it is needed next."""


class Folder:
    """The shards of a local folder."""

    def __init__(self, root: Path, shards: Sequence[Shard]):
        """``shards`` of the folder ``root``; a file is opened when it is needed first."""
        self._root, self._shards = root, shards
        self._opened: OrderedDict[int, int] = OrderedDict()  # shard -> descriptor, the latest used last

    def name(self, shard: int) -> str:
        """The path of a shard."""
        return str(self._root / self._shards[shard].name)

    def open(self, shard: int) -> int:
        """The descriptor of a shard, which stays open for the next time."""
        if shard not in self._opened:
            descriptor = self._checked(shard)
            if len(self._opened) == _OPEN_FILES:
                os.close(self._opened.popitem(last=False)[1])
            self._opened[shard] = descriptor
        self._opened.move_to_end(shard)
        return self._opened[shard]

    def _checked(self, shard: int) -> int:
        try:
            descriptor = os.open(self.name(shard), os.O_RDONLY | os.O_NONBLOCK)  # a pipe would be waited for
        except FileNotFoundError as error:
            raise ValueError(f"{self.name(shard)} is missing: bring it back") from error
        size = os.fstat(descriptor).st_size
        if size == self._shards[shard].size:
            return descriptor
        os.close(descriptor)
        raise ValueError(
            f"{self.name(shard)} has {size} bytes where the index expects {self._shards[shard].size}, so it was "
            f"truncated or replaced: bring it back, or index anew with tools/prepare.py kind=tars source={self._root}"
        )

    def close(self, descriptor: int) -> None:
        """Nothing: it stays open."""

    def forget(self, shard: int) -> None:
        """Close a shard: what lies at its path may be another file by now."""
        if shard in self._opened:
            os.close(self._opened.pop(shard))

    def __del__(self) -> None:
        for descriptor in self._opened.values():
            os.close(descriptor)


def read_at(files: Files, shard: int, offset: int, size: int) -> bytes:
    """``size`` bytes of a shard from ``offset`` on.

    Errors of the disk or its network, which may pass, are retried a few times on a file opened anew; then, and where
    the shard is missing or has another size than the index says, ``ValueError`` in one sentence.
    """
    for attempt in range(_TRIES):
        try:
            return _read(files, shard, offset, size)
        except OSError as error:
            reason = error
        files.forget(shard)
        sleep(_PAUSE * 2**attempt)
    raise ValueError(
        f"{files.name(shard)} could not be read in {_TRIES} attempts (the last: {reason}): see to its disk"
    )


def _read(files: Files, shard: int, offset: int, size: int) -> bytes:
    # By position: processes may share a descriptor. Not through a memory map: where a file is cut short under a map,
    # touching it ends the process with SIGBUS, and no sentence.
    descriptor = files.open(shard)
    try:
        data = os.pread(descriptor, size, offset)
        while len(data) < size:
            more = os.pread(descriptor, size - len(data), offset + len(data))
            if not more:
                raise OSError(f"it ends after {offset + len(data)} bytes")
            data += more
        return data
    finally:
        files.close(descriptor)
