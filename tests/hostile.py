"""A folder of everything that goes wrong with pictures, and a way to be refused a file as root."""

import ctypes
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

_VERSION, _MAY_READ_ALL = 0x20080522, 0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextmanager
def without_privilege() -> Iterator[None]:
    """Inside, this thread is refused what its user is not allowed to read, root too (Linux capabilities)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "capset"):
        pytest.skip("no Linux capabilities here")
    header, sets = _Header(_VERSION, 0), (_Sets * 2)()
    assert libc.capget(ctypes.byref(header), sets) == 0
    before = sets[0].effective
    sets[0].effective = before & ~_MAY_READ_ALL
    assert libc.capset(ctypes.byref(header), sets) == 0
    try:
        yield
    finally:
        sets[0].effective = before
        assert libc.capset(ctypes.byref(header), sets) == 0


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(width: int, height: int, *, bits: int, colour: int, rows: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _odd_images(root: Path) -> None:
    """What is an image, but not eight bits of upright, opaque RGB under its own name."""
    cmyk = Image.new("CMYK", (32, 16), (255, 0, 0, 0))
    cmyk.paste((0, 0, 0, 255), (16, 0, 32, 16))
    cmyk.save(root / "cmyk.jpg", quality=95)
    ramp = np.array([[0, 257, 25700, 65535]], dtype=np.uint16)
    Image.fromarray(ramp).save(root / "sixteen.png")
    row = ramp.astype(">u2").repeat(3, axis=1).tobytes()
    (root / "sixteen-rgb.png").write_bytes(_png(4, 1, bits=16, colour=2, rows=b"\0" + row))
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(root / "animated.gif", save_all=True, append_images=frames[1:])
    frames[1].save(root / "wrong.jpg", format="PNG")
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the picture is at the right of what is stored
    turned = Image.new("RGB", (32, 16), "red")
    turned.paste("blue", (0, 0, 16, 16))
    turned.save(root / "turned.jpg", exif=exif, quality=95)
    clear = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    clear.putpixel((1, 0), (0, 0, 0, 128))
    clear.save(root / "clear.png")
    phone = [Image.new("RGB", (16, 16), colour) for colour in ("red", "black")]
    phone[0].save(root / "phone.jpg", format="MPO", save_all=True, append_images=phone[1:])
    Image.new("RGB", (30_000, 20), "green").save(root / "banner.png")


def _no_images(root: Path, whole: bytes) -> None:
    """What is none, or not all of one, or too much."""
    (root / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "zero.jpg").touch()
    (root / "words.png").write_text("not a picture")
    (root / "bomb.png").write_bytes(_png(30_000, 30_000, bits=8, colour=2, rows=bytes(30_000)))
    Image.fromarray(np.ones((2, 2), dtype=np.float32)).save(root / "floats.tif")
    with (root / "sparse.png").open("wb") as file:
        file.truncate((1 << 30) + 1)
    os.mkfifo(root / "pipe.png")


def _links(root: Path, outside: Path, whole: bytes) -> None:
    (outside / "deep").mkdir(parents=True)
    for name in ("secret.jpg", "deep/secret.jpg"):
        Image.new("RGB", (16, 16), "purple").save(outside / name, comment=b"secret")
    for name in ("secret.txt", "deep/secret.txt"):
        (outside / name).write_text("a secret")
    (root / "out.jpg").symlink_to(outside / "secret.jpg")
    (root / "up.jpg").symlink_to("../outside/secret.jpg")
    (root / "leak.jpg").write_bytes(whole)
    (root / "leak.txt").symlink_to(outside / "secret.txt")
    (root / "folder").symlink_to(outside / "deep")
    (root / "self.jpg").symlink_to("self.jpg")
    (root / "inside.jpg").symlink_to("good.jpg")


CAPTIONS = {
    "good": "a grey square",
    "emoji": "🐈‍⬛ on a 🟥 mat 👍🏽",
    "rtl": "قطة على سجادة حمراء",
    "new\nline": "a name of two lines",
    "marked": "\ufeffwritten by an editor that marks its files",
}


def make_hostile(root: Path) -> None:
    """All of them in the new folder ``root``, and beside it a folder ``outside`` that nothing may be read from."""
    root.mkdir()
    Image.fromarray(np.full((16, 16, 3), 128, dtype=np.uint8)).save(root / "good.jpg", quality=95)
    whole = (root / "good.jpg").read_bytes()
    for name in ("emoji", "rtl", "new\nline", "marked", "alone", "blank", "latin", "locked", "mute"):
        (root / f"{name}.jpg").write_bytes(whole)
    _odd_images(root)
    _no_images(root, whole)
    _links(root, root.parent / "outside", whole)
    for path in [path for path in root.iterdir() if path.suffix != ".txt" and path.name != "folder"]:
        caption = path.with_suffix(".txt")
        if path.stem != "alone" and not os.path.lexists(caption):
            caption.write_text(CAPTIONS.get(path.stem, f"a picture called {path.stem}"), encoding="utf-8")
    (root / "blank.txt").write_text(" \n\t")
    (root / "latin.txt").write_bytes("é".encode("latin-1"))
    (root / "good.TXT").write_text("another caption")
    (root / "\x1b[31mred\n.txt").write_text("no image has this name")
    (root / "notes.md").write_text("hello")
    (root / "shut").mkdir()
    (root / "shut" / "unseen.jpg").write_bytes(whole)
    for name in ("locked.jpg", "mute.txt", "shut"):
        (root / name).chmod(0)
