"""Real disks of a given size, in memory, that no other process sees; for those who may mount."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_READ_ONLY, _REMOUNT, _REC, _PRIVATE = 1, 32, 0x4000, 1 << 18
_DETACH = 2


def may_mount() -> bool:
    """Whether this process may mount a disk for itself; tried in a child, which alone leaves the common view."""
    child = os.fork()
    if not child:
        os._exit(0 if _leave() else 1)
    return os.waitpid(child, 0)[1] == 0


def _leave() -> bool:
    """Give this process a view of its own of what is mounted."""
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.unshare(_CLONE_NEWNS) == 0 and libc.mount(b"none", b"/", None, _REC | _PRIVATE, None) == 0


def _mount(place: Path, flags: int, data: str) -> None:
    if ctypes.CDLL(None, use_errno=True).mount(b"none", os.fsencode(place), b"tmpfs", flags, data.encode()):
        raise OSError(ctypes.get_errno(), f"cannot mount {place}")


@contextmanager
def mounted(at: Path, *, size: int) -> Iterator[Path]:
    """A disk of ``size`` bytes at a new folder in ``at``, for this process and its children, as long as the block."""
    if not _leave():
        raise OSError("this process may not mount")
    place = at / "disk"
    place.mkdir()
    _mount(place, 0, f"size={size}")
    try:
        yield place
    finally:
        ctypes.CDLL(None).umount2(os.fsencode(place), _DETACH)


def remount(place: Path, *, size: int | None = None, read_only: bool = False) -> None:
    """Change what is mounted at ``place``."""
    _mount(place, _REMOUNT | (_READ_ONLY if read_only else 0), "" if size is None else f"size={size}")
