"""Fetching one object from wherever fsspec reaches: checked, retried, and never waited for without end.

Each attempt reads in a thread of its own, which hands the bytes over. An attempt that stalls, in whatever library, is
left behind: it has written nothing, so nothing of it can turn up later.
"""

import hashlib
import os
import zlib
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO, NamedTuple

from pixart.data.storage.remote import FailedAttempt, Stopped, Stream, check_protocol, without_query

PARTIAL = ".partial"  # how names of files end that are being fetched

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.2, 30.0  # seconds between attempts, doubled from one to the next
_FLUSH = 30.0  # seconds that a disk may take until it has all


class Fetched(NamedTuple):
    """What was fetched."""

    size: int  # bytes
    sha256: str


def fetch(
    url: str,
    to: Path,
    *,
    size: int | None,
    sha256: str | None,
    timeout: float,
    retries: int,
    storage_options: Mapping[str, Any],
) -> Fetched:
    """Fetch ``url`` to the file ``to``: there appears the whole object, flushed to the disk, or nothing.

    Arguments and errors as of ``transfer``.
    """
    to.parent.mkdir(parents=True, exist_ok=True)
    aside = to.with_name(f".{to.name}.{os.getpid()}{PARTIAL}")
    try:
        with aside.open("w+b") as file:
            fetched = transfer(url, file, size=size, sha256=sha256, timeout=timeout, retries=retries,
                               storage_options=storage_options, stop=Event())  # fmt: skip
        aside.replace(to)
    finally:
        aside.unlink(missing_ok=True)
    return fetched


def transfer(
    url: str,
    file: BinaryIO,
    *,
    size: int | None,
    sha256: str | None,
    timeout: float,
    retries: int,
    storage_options: Mapping[str, Any],
    stop: Event,
) -> Fetched:
    """Fetch ``url`` into ``file`` from its start, cut it there and flush it; checked against what is known of it.

    ``size`` in bytes and ``sha256`` are None where they are unknown. An attempt during which nothing comes for
    ``timeout`` seconds is given up. What may pass (dropped and stalled connections, errors of the server, short bodies)
    is tried ``retries`` times more, after pauses that grow. Raises ``ValueError`` in one sentence where it does not
    pass, there is no such object, or it is twice another one than expected; ``OSError`` where ``file`` cannot be
    written; ``Stopped`` soon after ``stop`` is set.
    """
    name = without_query(url)
    check_protocol(url)
    mismatches, reason = 0, ""
    for attempt in range(retries + 1):
        _pause(attempt, url, stop)
        try:
            fetched = _attempt(url, file, size=size, timeout=timeout, storage_options=storage_options, stop=stop)
        except FailedAttempt as failure:
            reason = str(failure)
            continue
        if _is_expected(fetched, size, sha256):
            file.truncate(fetched.size)
            file.flush()
            os.fsync(file.fileno())
            return fetched
        mismatches += 1
        if mismatches == 2:  # once may be a fault of the way, and not of the object
            raise ValueError(
                f"{name} is another object than was indexed: bring that one back, or index anew with tools/prepare.py"
            )
        reason = "its bytes were not those that were indexed"
    raise ValueError(
        f"{name} could not be fetched in {retries + 1} attempts (the last: {reason}): see that it can be reached, or "
        f"raise timeout or retries"
    )


def longest_silence(timeout: float, retries: int) -> float:
    """The most seconds for which a transfer that goes on may write nothing."""
    pauses = sum(min(_LONGEST_PAUSE, _SHORTEST_PAUSE * 2**attempt) for attempt in range(retries))
    return (retries + 1) * timeout + pauses + _FLUSH


def _is_expected(fetched: Fetched, size: int | None, sha256: str | None) -> bool:
    return size in (None, fetched.size) and sha256 in (None, fetched.sha256)


def _attempt(
    url: str, file: BinaryIO, *, size: int | None, timeout: float, storage_options: Mapping[str, Any], stop: Event
) -> Fetched:
    file.seek(0)
    digest, count = hashlib.sha256(), 0
    with closing(Stream(url, timeout, storage_options)) as stream:
        for chunk in stream.chunks(stop):
            count += len(chunk)
            if size is not None and count > size:
                break
            file.write(chunk)
            digest.update(chunk)
    if size is not None and count < size:
        raise FailedAttempt(f"it ended after {count} of {size} bytes")
    return Fetched(count, digest.hexdigest())


def _pause(attempt: int, url: str, stop: Event) -> None:
    """Wait before an attempt that is not the first; not all processes of a node equally long."""
    if attempt:
        share = zlib.crc32(f"{url} {os.getpid()} {attempt}".encode()) / 2**32
        longest = min(_LONGEST_PAUSE, _SHORTEST_PAUSE * 2 ** (attempt - 1))
        stop.wait(longest * (1 + share) / 2)
    if stop.is_set():
        raise Stopped
