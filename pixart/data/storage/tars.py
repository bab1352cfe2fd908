"""One pass over a WebDataset tar: its samples, where their members lie, and what is known of them."""

import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pixart.data.storage.tar_stream import Span, TarStream

MEMBERS = ("image", "text", "json", "cls", "features")
NO_LABEL = -1

_EXTENSIONS = {
    **dict.fromkeys(("jpg", "jpeg", "png", "webp"), "image"),
    "txt": "text",
    "json": "json",
    "cls": "cls",
    "features.safetensors": "features",
}
_EXIF = (b"Exif", b"eXIf", b"VP8X")  # how it begins, or may, in JPEG, PNG and WebP
_BEGINNING = 4096  # bytes; further on all bytes occur by chance
_SMALL = ("text", "json", "cls")  # read in every case
_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can say it, UTF-8 cannot
_LARGEST = 2**31  # numbers are kept in 32 bits


class Described(NamedTuple):
    """What is known of one sample without decoding its image."""

    key: str
    spans: dict[str, Span]  # by MEMBERS
    height: int  # pixels, upright
    width: int
    captions: tuple[str, ...]
    label: int  # NO_LABEL where there is none
    checksum: int  # zlib.crc32 over the members in the order of MEMBERS; 0 where it was not asked for


class TarContents(NamedTuple):
    """What one tar holds."""

    samples: tuple[Described, ...]
    skipped: tuple[tuple[str, str], ...]  # (key, why it cannot be used)
    sha256: str | None  # of the whole file; None where checksums were not asked for


def describe_tar(path: Path, *, checksums: bool) -> TarContents:
    """Each sample of a tar, and the key of each that cannot be used with the reason.

    Members of a sample stand together and share their name up to the first dot after the folder. With ``checksums``
    every byte is read once; without, the headers, the small members and the beginnings of images are. Raises
    ``ValueError`` for a file that is truncated, goes on after its end, or is no tar, and for a key that stands in it
    twice.
    """
    with TarStream(path, hashed=checksums) as stream:
        found = [_described(sample, stream, checksums) for sample in _samples(stream, checksums)]
        sha256 = stream.sha256()
    samples = tuple(sample for sample in found if isinstance(sample, Described))
    _check_distinct(samples, path)
    return TarContents(samples, tuple(sample for sample in found if not isinstance(sample, Described)), sha256)


class NoTextError(ValueError):
    """A caption is no text."""


def captions_of(text: str, about: dict[str, Any]) -> tuple[str, ...]:
    """The captions of a sample: the list in its .json if there is one, else its .txt, else the one in its .json.

    Null and blank ones count for nothing, and a list of nothing else for none. Raises ``NoTextError`` where one is
    not text, or holds half a character.
    """
    listed = about.get("captions")
    several = _texts(listed) if isinstance(listed, list) else ()
    return several or _texts([text]) or _texts([about.get("caption")])


def _texts(found: list[Any]) -> tuple[str, ...]:
    texts = [text for text in found if text is not None]
    for text in texts:
        if not isinstance(text, str):
            raise NoTextError(f"a caption is a {type(text).__name__}")
        if _SURROGATE.search(text):
            raise NoTextError("a caption holds half a character")
    return tuple(text for text in texts if text.strip())


class _Members(NamedTuple):
    """The members of one sample; the contents of those that were read."""

    key: str
    spans: dict[str, Span]
    contents: dict[str, bytes]  # of the image its beginning where the whole is not read
    repeated: list[str]  # members of which there is more than one


def _samples(stream: TarStream, everything: bool) -> Iterator[_Members]:
    sample = _Members("", {}, {}, [])
    for name, span in stream.members():
        folder, slash, base = name.rpartition("/")
        stem, _, extension = base.partition(".")
        key = folder + slash + stem
        if key != sample.key:
            if sample.spans:
                yield sample
            sample = _Members(key, {}, {}, [])
        member = _EXTENSIONS.get(extension.lower(), f".{extension}")
        if member in sample.spans:
            sample.repeated.append(member)
            continue
        sample.spans[member] = span
        if span.size < _LARGEST and (member in _SMALL or (everything and member in MEMBERS)):
            sample.contents[member] = stream.read(span.size)
        elif member == "image":
            sample.contents[member] = stream.read(min(span.size, _BEGINNING))
    if sample.spans:
        yield sample


def _described(sample: _Members, stream: TarStream, checksums: bool) -> Described | tuple[str, str]:
    key = sample.key.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    used = {member: sample.spans[member] for member in MEMBERS if member in sample.spans and sample.spans[member].size}
    why = _unusable(key, used, sample.repeated)
    if why is not None:
        return key, why
    try:
        about = json.loads(sample.contents.get("json") or b"{}")
        captions = captions_of(sample.contents.get("text", b"").decode(), about)
        label = _label(sample.contents.get("cls", b""), about)
    except NoTextError:
        return key, "its caption is not text"
    except (ValueError, AttributeError, RecursionError):
        return key, "its .txt, .json or .cls cannot be read"
    if not captions and label == NO_LABEL and "features" not in used:
        return key, "neither caption nor label"
    image = sample.contents.get("image", b"")
    size = None if _may_be_turned(image) else _stated_size(about)
    if size is None and "image" not in used:
        return key, "its .json does not say the height and width of its image"
    size = size or _measured_size(image if checksums else stream.again(used["image"]))
    if size is None:
        return key, "its image cannot be read"
    return Described(key, used, *size, captions, label, _checksum(used, sample.contents) if checksums else 0)


def _unusable(key: str, used: dict[str, Span], repeated: list[str]) -> str | None:
    if key.rpartition("/")[2] == "":
        return "its name begins with a dot"
    if repeated:
        return "two of its members are of one kind"
    if "image" not in used and "features" not in used:
        return "no image"
    if any(span.size >= _LARGEST for span in used.values()):
        return "a member of 2 GiB or more"
    return None


def _checksum(members: Iterable[str], contents: dict[str, bytes]) -> int:
    checksum = 0
    for member in members:
        checksum = zlib.crc32(contents[member], checksum)
    return checksum


def _label(cls: bytes, about: dict[str, Any]) -> int:
    label = int(cls) if cls else about.get("label")
    return label if type(label) is int and 0 <= label < _LARGEST else NO_LABEL


def _stated_size(about: dict[str, Any]) -> tuple[int, int] | None:
    """The stored image's size as tools/prepare and img2dataset note it, which saves reading the image."""
    height, width = about.get("height"), about.get("width")
    if type(height) is not int or type(width) is not int or not 0 < min(height, width) <= max(height, width) < _LARGEST:
        return None
    return height, width


def _may_be_turned(image: bytes) -> bool:
    """Whether metadata may turn it, which those who state a size have not always looked at (of img2dataset's tars)."""
    return any(word in image[:_BEGINNING] for word in _EXIF)


def _measured_size(data: bytes) -> tuple[int, int] | None:
    from pixart.data.transforms import BROKEN_IMAGE, measure, opened  # torch: seconds for each process

    try:
        with opened(data) as image:
            return measure(image)
    except BROKEN_IMAGE:
        return None


def _check_distinct(samples: tuple[Described, ...], path: Path) -> None:
    seen = set[str]()
    for sample in samples:
        if sample.key in seen:
            raise ValueError(
                f"{path.stem}/{sample.key} stands twice in its tar, so its members cannot be told apart: "
                "write the tar again"
            )
        seen.add(sample.key)
