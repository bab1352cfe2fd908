"""One image of a user: decoded once to see that it is whole, and encoded as it is to be stored."""

import io
import warnings
from typing import Literal, NamedTuple

from PIL import Image

from pixart.data.transforms import BROKEN_IMAGE, UNKNOWN_WHITE, is_turned, measure, opened, rgb

Encoding = Literal["keep", "jpg", "png", "webp"]
_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}  # MPO: a camera's JPEG with more behind it
_FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
_NAMED = {
    **{".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"},
    **{".bmp": "BMP", ".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF"},
}
_MODES = {"1": "black and white", "L": "grey", "LA": "grey", "P": "palette", "PA": "palette"}
_PNG_DEPTH = 24  # place of the byte that says how many bits a channel has


class Ready(NamedTuple):
    """An image as it goes into a tar."""

    extension: str  # jpg, png or webp
    stored: bytes
    height: int  # pixels, upright
    width: int
    changes: tuple[str, ...]  # what is done to it, now or whenever it is read


def ready(data: bytes, suffix: str, *, encode: Encoding, quality: int) -> Ready | str:
    """The image in ``data``, from a file whose name ends in ``suffix``; or in words why it cannot be used."""
    if not data:
        return "image file is empty"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of damage that it can do without, and of large images
            return _ready(data, suffix.lower(), encode, quality)
    except Image.DecompressionBombError:
        return f"image has more than {2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000} million pixels"
    except BROKEN_IMAGE as error:
        return "image is truncated" if "truncated" in str(error).lower() else "image cannot be decoded"


def _ready(data: bytes, suffix: str, encode: Encoding, quality: int) -> Ready | str:
    with opened(data) as image:
        if image.mode in UNKNOWN_WHITE:
            return "image has 32-bit values, of which none is known to be white"
        height, width = measure(image)
        keep = encode == "keep" and image.format in _EXTENSIONS
        extension = _EXTENSIONS[image.format or ""] if keep else "png" if encode == "keep" else encode
        changes = _changes(image, data, suffix)
        upright = rgb(image)  # decodes, so that damage shows now
    if keep:
        return Ready(extension, data, height, width, changes)
    try:
        stored = _bytes(upright, extension, quality)
    except (OSError, ValueError):
        return f"image is too large for {extension}"
    return Ready(extension, stored, height, width, (*changes, f"stored as {extension}"))


def _changes(image: Image.Image, data: bytes, suffix: str) -> tuple[str, ...]:
    """In what the pixels that will be read are not those of the file."""
    named, found = _NAMED.get(suffix), "JPEG" if image.format == "MPO" else image.format
    sixteen = image.mode.startswith("I;16") or (found == "PNG" and data[_PNG_DEPTH] == 16)
    mode = "grey" if image.mode.startswith("I;16") else _MODES.get(image.mode, image.mode)
    described = {
        f"{found} named {suffix}": named not in (None, found),
        "first of its frames": found != "JPEG" and getattr(image, "is_animated", False),
        "turned upright": is_turned(image),
        "16 bits to 8": sixteen,
        f"{mode} to RGB": mode not in ("RGB", "RGBA"),
        "transparency laid on white": image.has_transparency_data,
    }
    return tuple(change for change, applies in described.items() if applies)


def _bytes(image: Image.Image, extension: str, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=_FORMATS[extension], quality=quality)
    return buffer.getvalue()
