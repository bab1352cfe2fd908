"""The cache of remote shards: a folder of bounded size on a local disk, shared by all processes of a machine.

Everything hangs on locks of files, which end with the process that holds them. A shard is fetched into a ``.partial``
file by whoever holds its exclusive lock, and appears under its name whole and checked. Whoever reads it holds a shared
lock, and only a shard that nobody reads is taken away, the longest unused first. The folder must be on a file system
with locks that all its processes see.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from fcntl import LOCK_EX, LOCK_SH, flock
from math import ceil
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any, NamedTuple

from pixart.data.storage.fetch import PARTIAL, longest_silence, transfer
from pixart.data.storage.index_table import Shard
from pixart.data.storage.locks import is_at, lock, wait
from pixart.data.storage.room import FULL, Held, NoRoom, Room

_PLACE = "shards"


class CacheSettings(NamedTuple):
    """Where remote shards are kept, and how they are fetched."""

    folder: Path
    limit_bytes: int  # of all shards in the folder together
    ahead: int  # steps of training whose shards are fetched before they are needed
    fetchers: int  # shards that one process fetches ahead at a time
    retries: int
    timeout: float  # seconds without a byte after which an attempt is given up
    storage_options: Mapping[str, Any]  # of fsspec


class ShardCache:
    """The shards at an address, by their place in the index."""

    def __init__(self, root: str, shards: Sequence[Shard], settings: CacheSettings):
        """Shards of ``root`` under ``settings``; nothing is fetched yet."""
        self._root, self._shards, self._settings = root.rstrip("/"), shards, settings
        self._folder = settings.folder.expanduser() / _PLACE
        self._room = Room(self._folder, settings.limit_bytes)
        self._paths: dict[int, Path] = {}

    def name(self, shard: int) -> str:
        """Where a shard comes from."""
        return f"{self._root}/{self._shards[shard].name}"

    def path(self, shard: int) -> Path:
        """Where a shard lies when it is here: another place for another content, so that none is mistaken for it."""
        if shard not in self._paths:
            name, size, sha256 = self._shards[shard]
            digest = hashlib.sha256(f"{self.name(shard)} {size} {sha256}".encode()).hexdigest()
            self._paths[shard] = self._folder / f"{digest[:16]}-{name}"
        return self._paths[shard]

    def open(self, shard: int) -> int:
        """A descriptor of a shard, which is fetched if need be; nobody takes the shard away until it is closed.

        Raises ``ValueError`` in one sentence where it cannot be fetched, or finds no room.
        """
        return self._open(shard, Event(), None)

    def close(self, descriptor: int) -> None:
        """Give back what ``open`` gave; the shard may be taken away from now on."""
        os.close(descriptor)

    def bring(self, shard: int, *, spared: frozenset[Path], stop: Event) -> None:
        """See that a shard is here and counts as used, without taking ``spared`` ones away for it.

        Raises ``ValueError`` as ``open`` does, ``NoRoom`` at once where there is none, ``Stopped`` after ``stop``.
        """
        os.close(self._open(shard, stop, spared))

    def forget(self, shard: int) -> None:
        """Take away a shard that proved to be damaged; who reads it may go on."""
        self.path(shard).unlink(missing_ok=True)

    def _open(self, shard: int, stop: Event, spared: frozenset[Path] | None) -> int:
        try:
            while True:
                descriptor = self._present(shard)
                if descriptor is None:
                    descriptor = self._fetched(shard, stop, spared)
                if descriptor is not None:
                    return descriptor
        except OSError as error:
            raise ValueError(
                f"{self._folder} cannot take shards in ({error}): see to that disk, or set data.cache.folder to another"
            ) from error

    def _present(self, shard: int) -> int | None:
        path = self.path(shard)
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        locked = lock(descriptor, LOCK_SH)  # else it is just being taken away
        if is_at(descriptor, path):
            if locked and os.fstat(descriptor).st_size == self._shards[shard].size:
                os.utime(descriptor)  # used now
                return descriptor
            path.unlink(missing_ok=True)
        os.close(descriptor)
        return None

    def _fetched(self, shard: int, stop: Event, spared: frozenset[Path] | None) -> int | None:
        """The shard, just fetched; None where another process has fetched it meanwhile."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self.path(shard)
        partial = path.with_name(f".{path.name}{PARTIAL}")
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT, 0o644)
        placed = mine = False
        try:
            mine = self._becomes_mine(descriptor, partial, stop)
            if not mine or path.exists():
                return None
            self._fill(descriptor, shard, stop, spared)
            os.utime(descriptor)
            flock(descriptor, LOCK_SH)
            partial.rename(path)
            placed = True
            return descriptor
        finally:
            if mine and not placed:
                partial.unlink(missing_ok=True)
            if not placed:
                os.close(descriptor)

    def _becomes_mine(self, descriptor: int, partial: Path, stop: Event) -> bool:
        """Whether this process is to fetch: false when another one that did has ended, well or not."""
        patience = longest_silence(self._settings.timeout, self._settings.retries)
        until, seen = monotonic() + patience, 0
        while is_at(descriptor, partial):
            if lock(descriptor, LOCK_EX):
                return is_at(descriptor, partial)
            written = os.fstat(descriptor).st_mtime_ns
            if written != seen:
                until, seen = monotonic() + patience, written
            if monotonic() > until:
                raise ValueError(f"{partial} does not grow: end the process that fetches it, which seems to be stopped")
            wait(stop)
        return False

    def _fill(self, descriptor: int, shard: int, stop: Event, spared: frozenset[Path] | None) -> None:
        """Fetch a shard into ``descriptor``, taking others away while there is no room for it."""
        _, size, sha256 = self._shards[shard]
        settings = self._settings
        while True:
            self._reserve(descriptor, shard, stop, spared)
            try:
                with open(descriptor, "r+b", closefd=False) as file:
                    transfer(self.name(shard), file, size=size, sha256=sha256, timeout=settings.timeout,
                             retries=settings.retries, storage_options=settings.storage_options, stop=stop)  # fmt: skip
                return
            except OSError as error:
                if error.errno not in FULL or not self._room.take_one(spared or frozenset()):
                    raise

    def _reserve(self, descriptor: int, shard: int, stop: Event, spared: frozenset[Path] | None) -> None:
        """Room for a shard, waited for unless some are ``spared``: what others read they mostly soon have read."""
        size, until = self._shards[shard].size, monotonic() + self._settings.timeout
        seen: list[Held] = []
        if size > self._settings.limit_bytes:
            raise self._too_small(shard, NoRoom([], None))
        while True:
            try:
                return self._room.reserve(descriptor, size, spared or frozenset())
            except NoRoom as none:
                if spared is not None:
                    raise
                if none.held != seen:
                    seen, until = none.held, monotonic() + self._patience(none.held)
                if monotonic() > until:
                    raise self._too_small(shard, none) from none
            wait(stop)

    def _patience(self, held: Sequence[Held]) -> float:
        """Seconds within which files in the folder must change: one that is being fetched may take longer."""
        settings = self._settings
        fetching = sum(file.path.name.endswith(PARTIAL) for file in held) > 1  # one is ours
        return longest_silence(settings.timeout, settings.retries) if fetching else settings.timeout

    def _too_small(self, shard: int, none: NoRoom) -> ValueError:
        name, size, _ = self._shards[shard]
        if none.full is not None:
            return ValueError(
                f"{self._folder} cannot take in {name} of {size} bytes ({none.full}): make room on that disk, or set "
                f"data.cache.folder to another"
            )
        need = size + sum(file.size for file in none.held)
        return ValueError(
            f"data.cache.gib={self._settings.limit_bytes / 2**30:.4g} is too small: {name} needs {size} bytes beside "
            f"those in use, set it to {ceil(need / 2**20) / 2**10:g} or more"
        )
