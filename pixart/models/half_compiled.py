"""Libraries whose compiler was killed: torch takes a file that is there for whole, and fails to load it for good."""

import logging
import struct
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger(__name__)

_HEADER = struct.Struct("<4s36xQ10xHH2x")  # of 64-bit ELF: its mark, where the table of sections lies, size and number
_LITTLE_64 = b"\x02\x01"


def clear_half_compiled() -> int:
    """Delete what is no whole library in the cache of torch's compiler; one log line where there was any, their number.

    One that another process is just compiling is left to it: torch holds a lock on it meanwhile.
    """
    from filelock import FileLock, Timeout
    from torch._inductor.codecache import get_lock_dir
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    cleared, folder, locks = 0, Path(cache_dir()), Path(get_lock_dir())
    for path in folder.glob("*/*.so"):
        if is_whole(path):
            continue
        with suppress(Timeout), FileLock(locks / f"{path.name.partition('.')[0]}.lock", timeout=0):
            if not is_whole(path):  # it may have been, a moment ago
                path.unlink(missing_ok=True)
                cleared += 1
    if cleared:
        logger.warning("compile=true: %d half-compiled file(s) in %s are deleted and compiled again", cleared, folder)
    return cleared


def is_whole(library: Path) -> bool:
    """Whether a file is as long as it says: of ELF, the table of sections is what a linker puts last."""
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
        return length > 0  # of a system whose libraries are of another kind
    return bool(0 < sections <= length - size * count)
