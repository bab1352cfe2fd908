"""Calls of the kernel as operations on the files of a run."""

import os
import struct
from pathlib import Path
from typing import Literal, NamedTuple

from pixart.torture.syscalls import CALLS, COPIES, MAPS, NAMES, OPENS, SYNCS, WRITES, Call, memory, text

Kind = Literal["create", "write", "resize", "sync", "rename", "link", "mkdir", "remove", "map"]
_AT_CWD = -100
_VECTORS = {"writev", "pwritev", "pwritev2"}
_PLACED = {"pwrite64", "pwritev", "pwritev2"}


class Operation(NamedTuple):
    """One step that changes what lies beneath a folder."""

    kind: Kind
    path: Path  # absolute; for a rename, the new name
    size: int  # bytes of a write, 0 for all others

    def told(self, root: Path) -> str:
        """The operation in words."""
        size = f" of {self.size} bytes" if self.kind == "write" else ""
        return f"{self.kind}{size} {self.path.relative_to(root)}"


def operation(call: Call, root: Path) -> Operation | None:
    """What ``call`` would change beneath ``root``, None for nothing; locks change nothing."""
    kind, path = _meaning(call)
    if kind is None or path is None or not path.is_relative_to(root) or ".lock" in path.relative_to(root).parts:
        return None
    return Operation(kind, path, _size(call) if kind == "write" else 0)


def _meaning(call: Call) -> tuple[Kind | None, Path | None]:
    number, arguments = call.number, call.arguments
    if number in WRITES:
        return "write", _opened(call, arguments[0])
    if number in COPIES:
        return "write", _opened(call, arguments[0 if CALLS[number] == "sendfile" else 2])
    if number in SYNCS:
        return "sync", _opened(call, arguments[0])
    if number in MAPS:
        return "map", _opened(call, arguments[4])
    if number in OPENS:
        return _opening(call)
    if number in NAMES:
        return _naming(call)
    return "resize", _named(call, None, 0) if CALLS[number] == "truncate" else _opened(call, arguments[0])


def _naming(call: Call) -> tuple[Kind, Path | None]:
    name = CALLS[call.number]
    kinds: dict[str, Kind] = {"re": "rename", "li": "link", "sy": "link", "mk": "mkdir", "rm": "remove", "un": "remove"}
    # Where the folder (None: as given) and the changed name stand among the arguments.
    places: dict[str, tuple[int | None, int]] = {
        **{"rename": (None, 1), "renameat": (2, 3), "renameat2": (2, 3), "link": (None, 1), "linkat": (2, 3)},
        **{"symlink": (None, 1), "symlinkat": (1, 2), "mkdir": (None, 0), "mkdirat": (0, 1), "rmdir": (None, 0)},
        **{"unlink": (None, 0), "unlinkat": (0, 1)},
    }
    kind, path = kinds[name[:2]], _named(call, *places[name])
    return kind, None if _is_vain(kind, path) else path


def _is_vain(kind: Kind, path: Path | None) -> bool:
    """Whether an operation cannot succeed, and so changes nothing."""
    if path is None or kind == "remove":
        return not _exists(path)
    return not path.parent.is_dir() or (kind == "mkdir" and _exists(path))


def _opening(call: Call) -> tuple[Kind | None, Path | None]:
    name = CALLS[call.number]
    path = _named(call, *((0, 1) if name == "openat" else (None, 0)))
    if not _exists(path):
        return "create", path
    flags = os.O_TRUNC if name == "creat" else call.arguments[2 if name == "openat" else 1]
    return ("resize", path) if flags & os.O_TRUNC else (None, None)  # to open is to change nothing


def _exists(path: Path | None) -> bool:
    return path is not None and os.path.lexists(path)


def _signed(number: int) -> int:
    return int(struct.unpack("=i", struct.pack("=I", number & 0xFFFFFFFF))[0])


def _opened(call: Call, descriptor: int) -> Path | None:
    """What a descriptor of the caller stands for, None where that is no file."""
    try:
        found = os.readlink(f"/proc/{call.task}/fd/{_signed(descriptor)}")
    except OSError:
        return None
    return Path(found) if found.startswith("/") else None


def _named(call: Call, folder: int | None, place: int) -> Path | None:
    name = text(call.task, call.arguments[place])
    descriptor = _AT_CWD if folder is None else _signed(call.arguments[folder])
    if name.startswith("/"):
        return Path(os.path.normpath(name))
    at = Path(os.readlink(f"/proc/{call.task}/cwd")) if descriptor == _AT_CWD else _opened(call, descriptor)
    return None if at is None else Path(os.path.normpath(at / name))


def _size(call: Call) -> int:
    if CALLS[call.number] in _VECTORS:
        return sum(size for _, size in _vectors(call))
    return call.arguments[3 if call.number in COPIES else 2]


def _vectors(call: Call) -> list[tuple[int, int]]:
    raw = memory(call.task, call.arguments[1], 16 * call.arguments[2])
    return list(struct.iter_unpack("=QQ", raw))


def write_half(call: Call) -> None:
    """Do the first half of a write in the place of its caller, who is about to be killed."""
    name = CALLS[call.number]
    if call.number not in WRITES:
        return
    parts = _vectors(call) if name in _VECTORS else [(call.arguments[1], call.arguments[2])]
    data = b"".join(memory(call.task, address, size) for address, size in parts)
    descriptor = call.arguments[0]
    told = Path(f"/proc/{call.task}/fdinfo/{descriptor}").read_text().split()
    position, flags = int(told[1]), int(told[3], 8)
    file = os.open(f"/proc/{call.task}/fd/{descriptor}", os.O_WRONLY)
    try:
        if name in _PLACED:
            position = call.arguments[3]
        elif flags & os.O_APPEND:
            position = os.fstat(file).st_size
        os.pwrite(file, data[: len(data) // 2], position)
    finally:
        os.close(file)
