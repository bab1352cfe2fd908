"""What a killed compiler left: torch takes a file that is there for whole, and fails to load it for good."""

import logging
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger(__name__)

_HEADER = struct.Struct("<4s36xQ10xHH2x")  # of 64-bit ELF: its mark, where the table of sections lies, size and number
_LITTLE_64 = b"\x02\x01"
_COMPILED = ".gch"  # a header


def clear_half_compiled() -> int:
    """Delete libraries and headers that are not whole in the cache of torch's compiler; their number, and one log line.

    One that another process is just compiling is left to it: torch holds a lock on it meanwhile.
    """
    from filelock import FileLock, Timeout
    from torch._inductor.codecache import _HEADER_DIR, _HEADER_LOCK_DIR, get_lock_dir
    from torch._inductor.runtime.cache_dir_utils import cache_dir, default_cache_dir

    cleared, folder = 0, Path(cache_dir())
    headers = _headers(Path(_HEADER_DIR), used_in={folder, Path(default_cache_dir())})
    for half, locks in ((_libraries(folder), get_lock_dir()), (headers, _HEADER_LOCK_DIR)):
        for path in half:
            with suppress(Timeout), FileLock(Path(locks) / f"{path.name.partition('.')[0]}.lock", timeout=0):
                if path.suffix == _COMPILED or not is_whole(path):  # it may have been, a moment ago
                    path.unlink(missing_ok=True)
                    cleared += 1
    if cleared:
        logger.warning("compile=true: %d half-compiled file(s) in %s are deleted and compiled again", cleared, folder)
    return cleared


def _libraries(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob("*/*.so") if not is_whole(path))


def _headers(headers: Path, *, used_in: Iterable[Path]) -> Iterator[Path]:
    """Compiled headers that no library was compiled with since: such a one does not say how long it is."""
    libraries = (path for folder in used_in for path in folder.glob("*/*.main.so") if is_whole(path))
    newest = max(map(_written, libraries), default=0.0)
    return (path for path in headers.glob(f"*{_COMPILED}") if _written(path) > newest)


def _written(path: Path) -> float:
    """When, in seconds; 0 for what is gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def is_whole(library: Path) -> bool:
    """Whether a file is as long as it says: of ELF, whose head a linker puts last."""
    try:
        with library.open("rb") as file:
            head = file.read(_HEADER.size)
        length = library.stat().st_size
    except FileNotFoundError:
        return True
    if len(head) < _HEADER.size:
        return False
    mark, sections, size, count = _HEADER.unpack(head)
    if mark != b"\x7fELF" or head[4:6] != _LITTLE_64:
        return length > 0 and sys.platform != "linux"  # of a system whose libraries are of another kind
    return bool(0 < sections <= length - size * count)
