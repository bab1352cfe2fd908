"""The index of tars at an address, brought into the cache."""

import hashlib
import os
from contextlib import suppress
from fcntl import LOCK_EX
from pathlib import Path
from threading import Event
from time import monotonic, time_ns

from pixart.data.storage.cache import CacheSettings
from pixart.data.storage.fetch import PARTIAL, fetch, longest_silence
from pixart.data.storage.index_table import INDEX_NAME
from pixart.data.storage.locks import lock, wait

_PLACE = "indexes"


def is_remote(root: str) -> bool:
    """Whether ``root`` is an address as fsspec takes it, and no local folder."""
    return "://" in root


def fetched_index(root: str, settings: CacheSettings | None) -> Path:
    """The folder of a copy of the index at the address ``root``, fetched anew: it may have changed since the last time.

    Processes that ask while one fetches share what it fetches. Raises ``ValueError`` as ``fetch`` does.
    """
    if settings is None:
        raise ValueError(f"{root} is no local folder: set data.cache")
    asked = time_ns()
    digest = hashlib.sha256(root.encode()).hexdigest()
    folder = settings.folder.expanduser() / _PLACE / digest[:16]
    path = folder / INDEX_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ValueError(f"{folder} cannot be made ({error}): set data.cache.folder to another") from error
    try:
        _wait_for(descriptor, folder, longest_silence(settings.timeout, settings.retries))
        for left in folder.glob(f".{INDEX_NAME}.*{PARTIAL}"):  # by processes that were killed
            left.unlink()
        if not path.is_file() or path.stat().st_mtime_ns < asked:
            fetch(f"{root.rstrip('/')}/{INDEX_NAME}", path, size=None, sha256=None, timeout=settings.timeout,
                  retries=settings.retries, storage_options=settings.storage_options)  # fmt: skip
    finally:
        os.close(descriptor)
    return folder


def _wait_for(descriptor: int, folder: Path, patience: float) -> None:
    """Take the lock of the folder, waiting for ``patience`` seconds while nothing in it changes."""
    until, seen, never = monotonic() + patience, 0, Event()
    while not lock(descriptor, LOCK_EX):
        written = _last_change(folder)
        if written != seen:
            until, seen = monotonic() + patience, written
        if monotonic() > until:
            raise ValueError(f"{folder} stays locked: end the process that holds it, which seems to be stopped")
        wait(never)


def _last_change(folder: Path) -> int:
    newest = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            newest = max(newest, path.stat().st_mtime_ns)
    return newest
