"""The kernel asks before each system call that changes files: ``seccomp`` with user notification, on Linux x86-64.

A rank puts the filter on itself and hands the listener to the process that watches it. From then on every call that
could change a file, of whatever thread, library or child of the rank, waits until the watcher has answered. See the
manual pages seccomp(2) and seccomp_unotify(2).
"""

import ctypes
import fcntl
import os
import platform
import socket
import struct
import sys
from typing import NamedTuple

# Calls by number. Of those that open, only the ones that may create or empty a file; of maps, the writable shared ones.
WRITES = {1: "write", 18: "pwrite64", 20: "writev", 296: "pwritev", 328: "pwritev2"}
COPIES = {40: "sendfile", 326: "copy_file_range"}
SIZES = {76: "truncate", 77: "ftruncate", 285: "fallocate"}
SYNCS = {74: "fsync", 75: "fdatasync"}
NAMES = {
    **{82: "rename", 264: "renameat", 316: "renameat2", 86: "link", 265: "linkat", 88: "symlink", 266: "symlinkat"},
    **{83: "mkdir", 258: "mkdirat", 84: "rmdir", 87: "unlink", 263: "unlinkat"},
}
OPENS = {2: "open", 257: "openat", 85: "creat"}
MAPS = {9: "mmap"}
CALLS = WRITES | COPIES | SIZES | SYNCS | NAMES | OPENS | MAPS

_IO_URING_SETUP = 425  # refused, so that nothing can be written past the filter
_SECCOMP, _PR_SET_NO_NEW_PRIVS, _ARCH = 317, 38, 0xC000003E
_ALLOW, _ASK, _REFUSE = 0x7FFF0000, 0x7FC00000, 0x00050000 | 38  # ENOSYS
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_NOTICE = struct.Struct("=QIIiIQ6Q")
_ANSWER = struct.Struct("=QqiI")
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("yes", ctypes.c_ubyte), ("no", ctypes.c_ubyte), ("k", ctypes.c_uint))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


class Call(NamedTuple):
    """A system call that waits for an answer."""

    id: int
    task: int  # the thread that calls, as /proc names it
    number: int
    arguments: tuple[int, ...]


def unsupported() -> str | None:
    """Why calls cannot be watched on this machine; None where they can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"watching system calls needs Linux on x86-64, and this is {platform.system()} on {platform.machine()}"
    return None


def _argument(place: int) -> int:
    """Where the lower half of an argument lies in what the filter is shown."""
    return 16 + 8 * place


def _filter() -> list[tuple[int, int, int, int]]:
    """The filter: (code, jump if true, jump if false, k); jumps count from the next instruction."""
    asked = [*WRITES, *COPIES, *SIZES, *SYNCS, *NAMES, 85]
    creating = os.O_CREAT | os.O_TRUNC
    allow, ask, refuse = [(_RETURN, 0, 0, code) for code in (_ALLOW, _ASK, _REFUSE)]
    program = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _ARCH), allow, (_LOAD, 0, 0, 0)]
    for number in asked:
        program += [(_EQUAL, 0, 1, number), ask]
    program += [(_EQUAL, 0, 1, _IO_URING_SETUP), refuse]
    for number, place in ((2, 1), (257, 2)):
        program += [(_EQUAL, 0, 4, number), (_LOAD, 0, 0, _argument(place)), (_ANY_BIT, 0, 1, creating), ask, allow]
    program += [(_EQUAL, 1, 0, 9), allow, (_LOAD, 0, 0, _argument(2)), (_ANY_BIT, 1, 0, 2), allow]  # PROT_WRITE
    return [*program, (_LOAD, 0, 0, _argument(3)), (_ANY_BIT, 0, 1, 1), ask, allow]  # MAP_SHARED


def watch_me(channel: socket.socket) -> None:
    """Put the filter on this process, for good, and send its listener through ``channel``.

    Raises:
        OSError: the kernel does not allow it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    filter_ = [_Instruction(*instruction) for instruction in _filter()]
    program = _Program(len(filter_), (_Instruction * len(filter_))(*filter_))
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    mode_filter, new_listener = 1, 8
    listener = libc.syscall(_SECCOMP, mode_filter, new_listener, ctypes.byref(program))
    if listener < 0:
        raise OSError(ctypes.get_errno(), "this kernel does not let system calls be watched")
    socket.send_fds(channel, [b"."], [listener])
    os.close(listener)


def receive(listener: int) -> Call | None:
    """The next call that waits; None where its caller has died meanwhile."""
    buffer = bytearray(_NOTICE.size)
    try:
        fcntl.ioctl(listener, _RECEIVE, buffer)
    except FileNotFoundError:
        return None
    id_, task, _, number, _, _, *arguments = _NOTICE.unpack(buffer)
    return Call(id_, task, number, tuple(arguments))


def answer(listener: int, call: Call, *, error: int) -> None:
    """Let a call happen (``error`` 0), or make it fail with that errno."""
    go_on = 0 if error else 1
    try:
        fcntl.ioctl(listener, _SEND, bytearray(_ANSWER.pack(call.id, 0, -error, go_on)))
    except FileNotFoundError:  # it was killed meanwhile
        return


def memory(task: int, address: int, size: int) -> bytes:
    """What a task holds at an address."""
    descriptor = os.open(f"/proc/{task}/mem", os.O_RDONLY)
    try:
        return os.pread(descriptor, size, address)
    finally:
        os.close(descriptor)


def text(task: int, address: int) -> str:
    """The string that ends with a zero byte at an address, a path at most."""
    found = b""
    while b"\0" not in found and len(found) < 2 * 4096:
        here = address + len(found)
        found += memory(task, here, 4096 - here % 4096)  # the next page may not be there
    return os.fsdecode(found.partition(b"\0")[0])
