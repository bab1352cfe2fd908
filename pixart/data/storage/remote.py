"""Reading a remote object, in a thread that can be left behind when it stalls, in whatever library that may be."""

import re
import sys
from collections.abc import Iterator, Mapping
from queue import Empty, Queue
from threading import Event, Thread
from time import monotonic
from typing import Any

_CHUNK = 4 * 2**20  # bytes asked for at once: a stream of HTTP gives what has come, others a range of this size
_CHUNKS_AHEAD = 4  # held while the disk is busy
_LOOK = 0.05  # seconds between looks whether to stop

# What libraries beneath fsspec raise, beside OSError, when a transfer fails.
_LIBRARIES = (("aiohttp", "ClientError"), ("botocore.exceptions", "BotoCoreError"),
              ("botocore.exceptions", "ClientError"), ("gcsfs.retry", "HttpError"))  # fmt: skip
_PASSING_STATUS = (408, 425, 429)  # of HTTP: below 500, and yet worth another attempt


class Stopped(Exception):
    """The transfer was stopped before its end, because its caller no longer wants it."""


class FailedAttempt(Exception):
    """Reading failed in a way that may pass."""


def check_protocol(url: str) -> None:
    """``ValueError`` where fsspec cannot read such a URL, or wants a package for it."""
    from fsspec import get_filesystem_class

    try:
        get_filesystem_class(url.partition("://")[0])
    except (ValueError, ImportError) as error:
        raise ValueError(f"{without_query(url)} cannot be read: {error}") from error


def without_query(url: str) -> str:
    """A URL as it may be shown: what follows a question mark may be a secret."""
    return url.partition("?")[0]


class Stream(Thread):
    """The bytes of an object, read by a thread; close it to leave it behind."""

    def __init__(self, url: str, timeout: float, storage_options: Mapping[str, Any]):
        super().__init__(daemon=True, name=f"fetch {url}")  # a process need not wait for it to end
        self._url, self._timeout, self._options = url, timeout, storage_options
        self._queue: Queue[bytes | Exception | None] = Queue(_CHUNKS_AHEAD)
        self._left = Event()
        self.start()

    def run(self) -> None:
        """Read the object to its end, which is an empty chunk, or an error, and None in any case."""
        try:
            with _opened(self._url, self._timeout, self._options) as remote:
                while not self._left.is_set():
                    chunk = remote.read(_CHUNK)
                    self._queue.put(chunk)
                    if not chunk:
                        break
        except _failures() as error:
            self._queue.put(error)
        finally:
            self._queue.put(None)

    def chunks(self, stop: Event) -> Iterator[bytes]:
        """What was read, in pieces; ``FailedAttempt`` where it stalls or breaks off, ``Stopped`` after ``stop``."""
        while chunk := self._next(stop):
            if isinstance(chunk, TimeoutError):
                raise self._stalled()
            if isinstance(chunk, Exception):
                _refuse(self._url, chunk)
                raise FailedAttempt(_said(chunk)) from chunk
            yield chunk
        if chunk is None:
            raise FailedAttempt("its reader broke off")

    def _next(self, stop: Event) -> bytes | Exception | None:
        until = monotonic() + self._timeout
        while not stop.is_set():
            try:
                return self._queue.get(timeout=min(_LOOK, self._timeout))
            except Empty:
                if monotonic() > until:
                    raise self._stalled() from None
        raise Stopped

    def _stalled(self) -> FailedAttempt:
        return FailedAttempt(f"nothing came for {self._timeout:g} seconds")

    def close(self) -> None:
        """Let the thread go: it ends as soon as the library it waits for lets it."""
        self._left.set()
        while not self._queue.empty():  # room for the last that it may put
            self._queue.get_nowait()


def _opened(url: str, timeout: float, storage_options: Mapping[str, Any]) -> Any:
    """The object as a file. Instances of file systems belong to a process; fsspec keeps one for each."""
    from fsspec.core import url_to_fs

    is_http = url.startswith(("http://", "https://"))
    system, path = url_to_fs(url, **_with_timeouts(url, timeout, storage_options))
    if is_http:
        # One stream, and no question for the size before it: there fsspec takes any fault for a missing object.
        return system.open(path, "rb", block_size=0, size=1)
    return system.open(path, "rb", block_size=_CHUNK, cache_type="none")


def _with_timeouts(url: str, timeout: float, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that let the library itself give up, so that its threads do not stay behind."""
    if url.startswith(("http://", "https://")):
        from aiohttp import ClientTimeout

        limits = ClientTimeout(total=None, sock_connect=timeout, sock_read=timeout)  # its own total would be 5 minutes
        return {**options, "client_kwargs": {"timeout": limits, **options.get("client_kwargs", {})}}
    if url.startswith(("s3://", "s3a://")):
        config = {"connect_timeout": timeout, "read_timeout": timeout, **options.get("config_kwargs", {})}
        return {**options, "config_kwargs": config}
    return dict(options)


def _failures() -> tuple[type[Exception], ...]:
    found = ((sys.modules.get(module), name) for module, name in _LIBRARIES)
    return (OSError, EOFError, *(getattr(module, name) for module, name in found if module is not None))


def _refuse(url: str, error: Exception) -> None:
    """``ValueError`` for an error that another attempt would not mend."""
    name, status = without_query(url), getattr(error, "status", None)
    if isinstance(error, FileNotFoundError):
        raise ValueError(f"{name} is missing: bring it back, or index anew with tools/prepare.py") from error
    client = isinstance(status, int) and 400 <= status < 500 and status not in _PASSING_STATUS
    if isinstance(error, PermissionError) or client:
        raise ValueError(f"{name} may not be read ({_said(error)}): see storage_options") from error


def _said(error: Exception) -> str:
    """An error in one line, without the secrets of a URL."""
    return re.sub(r"\?[^\s'\")]+", "", " ".join(f"{type(error).__name__} {error}".split()))
