"""What a killed compiler left: torch takes a file that is there for whole, and fails to load it for good."""

import logging
import struct
import sys
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger(__name__)

_HEADER = struct.Struct("<4s36xQ10xHH2x")  # of 64-bit ELF: its mark, where the table of sections lies, size and number
_LITTLE_64 = b"\x02\x01"
_UNDONE = b"gpcW"  # of GCC's precompiled headers, which is "gpch" in the end


def clear_half_compiled() -> int:
    """Delete libraries and headers that are not whole in the cache of torch's compiler; their number, and one log line.

    One that another process is just compiling is left to it: torch holds a lock on it meanwhile.
    """
    from filelock import FileLock, Timeout
    from torch._inductor.codecache import _HEADER_DIR, _HEADER_LOCK_DIR, get_lock_dir
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    cleared: dict[Path, int] = {}
    places = ((Path(cache_dir()), "*/*.so", get_lock_dir()), (Path(_HEADER_DIR), "*.gch", _HEADER_LOCK_DIR))
    for folder, pattern, locks in places:
        for path in folder.glob(pattern):
            if is_whole(path):
                continue
            with suppress(Timeout), FileLock(Path(locks) / f"{path.name.partition('.')[0]}.lock", timeout=0):
                if not is_whole(path):  # it may have been, a moment ago
                    path.unlink(missing_ok=True)
                    cleared[folder] = cleared.get(folder, 0) + 1
    for folder, count in cleared.items():
        logger.warning("compile=true: %d half-compiled file(s) in %s are deleted and compiled again", count, folder)
    return sum(cleared.values())


def is_whole(path: Path) -> bool:
    """Whether a library is as long as it says, and a header of GCC's done: both have their head written last."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER.size)
        length = path.stat().st_size
    except FileNotFoundError:
        return True
    if path.suffix == ".gch":
        return length > 0 and not head.startswith(_UNDONE)
    if len(head) < _HEADER.size:
        return False
    mark, sections, size, count = _HEADER.unpack(head)
    if mark != b"\x7fELF" or head[4:6] != _LITTLE_64:
        return length > 0 and sys.platform != "linux"  # of a system whose libraries are of another kind
    return bool(0 < sections <= length - size * count)
