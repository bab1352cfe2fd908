"""The members of a tar, read once from its beginning, hashed on the way if asked.

The standard library's reader is not used: it spends most of its time on what an index does not need, it takes a broken
header for the end of the file, and it can hash nothing on its way. Formats: POSIX ustar and pax, and GNU's.
"""

import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

_BLOCK = 512  # bytes; headers are of one block, contents are padded to blocks, and a block of zeros is the end
_ZEROS = bytes(_BLOCK)
_FILES = (b"0", b"\0", b"7")
_WITHOUT_CONTENTS = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices and folders
_PIECE = 2**20  # bytes hashed at once
_LONGEST_END = 2**20  # bytes of zeros; writers pad to 10 KiB, what was allotted and never written is longer
_ADLER = 65521


class Span(NamedTuple):
    """Where a member lies in its tar, in bytes."""

    offset: int
    size: int


class TarStream:
    """A tar that is read once; ``ValueError`` in one sentence if it is cut, goes on after its end, or is no tar."""

    def __init__(self, path: Path, *, hashed: bool):
        """Open ``path``; with ``hashed`` every byte is read, and ``sha256`` tells what they were."""
        self._path = path
        self._file = path.open("rb", buffering=_PIECE if hashed else 16 * _BLOCK)
        self._size = os.fstat(self._file.fileno()).st_size
        self._hash = hashlib.sha256() if hashed else None
        self._offset = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def members(self) -> Iterator[tuple[str, Span]]:
        """Name and place of each file, in the order of the tar; its content may be ``read`` before the next.

        Bytes of a name that are not UTF-8 are surrogates in it, so that two names are never one.
        """
        told = dict[str, str]()  # by a header that goes before the file's own
        while (block := self.read(_BLOCK)) != _ZEROS:
            try:
                name, size, kind = _header(block)
                if kind in _FILES:
                    name, size = told.get("path", name), int(told.get("size", size))
                start = self._offset
                if kind in _TELLING:
                    told |= _TELLING[kind](self.read(size))
                elif kind != b"g":
                    told = {}
            except ValueError as error:
                raise self._broken() from error
            if kind in _FILES and not name.endswith("/"):
                yield name, Span(start, size)
            if kind not in _WITHOUT_CONTENTS:
                self._pass(start + -(-size // _BLOCK) * _BLOCK)
        self._see_the_end()

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        if not 0 <= size <= self._size - self._offset:
            raise self._broken()
        data = self._file.read(size)
        self._offset += size
        if self._hash is not None:
            self._hash.update(data)
        return data

    def again(self, span: Span) -> bytes:
        """The bytes of a member that was passed."""
        return os.pread(self._file.fileno(), span.size, span.offset)

    def sha256(self) -> str | None:
        """Of the whole file, in hexadecimal; None if it is not ``hashed``."""
        if self._hash is None:
            return None
        self._pass(self._size)
        return self._hash.hexdigest()

    def _pass(self, end: int) -> None:
        if end > self._size:
            raise self._broken()
        if self._hash is not None:
            while self._offset < end:
                self.read(min(_PIECE, end - self._offset))
        elif self._offset < end:
            self._file.seek(end)
            self._offset = end

    def _see_the_end(self) -> None:
        """``ValueError`` where a second tar follows, what lies behind a hole of zeros, or more zeros than end a tar."""
        left = self._size - self._offset
        if left > _LONGEST_END or (left and self.read(left).count(0) != left):
            raise ValueError(
                f"{self._path} goes on after its end: it was concatenated, has a hole or was never written to its end; "
                "write it again"
            )

    def _broken(self) -> ValueError:
        return ValueError(f"{self._path} is truncated or no tar: copy it again or take it away")


def _header(block: bytes) -> tuple[str, int, bytes]:
    """Name, size in bytes and kind of a member; ``ValueError`` where the sum of the bytes is not the one stated."""
    stated = int(block[148:156].split(b"\0")[0], 8)  # over the header with blanks in place of this field
    # The low half of Adler-32 is one more than the sum of the bytes, modulo 65521, and much faster than sum().
    if zlib.adler32(block[:148] + b" " * 8 + block[156:]) & 0xFFFF != (stated + 1) % _ADLER:
        raise ValueError("the header is damaged")
    size = _number(block[124:136])
    if size < 0:
        raise ValueError("the size is negative")
    name = _text(block[:100])
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else ""  # GNU keeps other things there
    return f"{prefix}/{name}" if prefix else name, size, block[156:157]


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # GNU: more than octal digits can hold
        return int.from_bytes(field[1:], "big")
    return int(field.split(b"\0")[0].strip() or b"0", 8)


def _records(data: bytes) -> dict[str, str]:
    """The keywords of a pax header: each record is its own length in digits, a blank, keyword=value, and a new line."""
    records = {}
    while data:
        length = int(data.partition(b" ")[0])
        if not 0 < length <= len(data):
            raise ValueError("a record of the wrong length")
        keyword, _, value = data[:length].partition(b" ")[2].rstrip(b"\n").partition(b"=")
        records[keyword.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        data = data[length:]
    return records


# Headers that tell something of the file after them: pax records, and GNU's long names (of files, and of links).
_TELLING: dict[bytes, Callable[[bytes], dict[str, str]]] = {
    b"x": _records,
    b"L": lambda data: {"path": _text(data)},
    b"K": lambda data: {},  # noqa: ARG005
}
