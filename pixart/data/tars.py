"""One pass over the headers of a WebDataset tar: its samples, where their members lie, and what is known of them."""

import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pixart.data.transforms import BROKEN_IMAGE, measure, opened

MEMBERS = ("image", "text", "json", "cls")
NO_LABEL = -1

_EXTENSIONS = {
    **dict.fromkeys(("jpg", "jpeg", "png", "webp"), "image"),
    "txt": "text",
    "json": "json",
    "cls": "cls",
}
_LARGEST = 2**31  # numbers are kept in 32 bits
_BLOCK = 512  # bytes; a tar ends in blocks of zeros


class Span(NamedTuple):
    """Where a member lies in its tar, in bytes."""

    offset: int
    size: int


class Described(NamedTuple):
    """What is known of one sample without decoding its image."""

    key: str
    spans: dict[str, Span]  # by MEMBERS
    height: int  # pixels, upright
    width: int
    captions: tuple[str, ...]
    label: int  # NO_LABEL where there is none


def describe_tar(path: Path) -> Iterator[Described | tuple[str, str]]:
    """Each sample of a tar, or its key and why it cannot be used.

    Members of a sample stand together and share their name up to the first dot after the folder. Raises ``ValueError``
    for a file that is truncated or no tar.
    """
    with path.open("rb") as file:
        for key, spans in _samples(path):
            yield _described(key, spans, file.fileno())


def captions_of(text: str, about: dict[str, Any]) -> tuple[str, ...]:
    """The captions of a sample: the list in its .json if there is one, else its .txt, else the one in its .json."""
    listed = about.get("captions")
    if isinstance(listed, list):
        return tuple(str(caption) for caption in listed)
    single = text or about.get("caption") or ""
    return (str(single),) if single else ()


def _samples(path: Path) -> Iterator[tuple[str, dict[str, Span]]]:
    key, spans = "", dict[str, Span]()
    for name, span in _members(path):
        folder, slash, base = name.rpartition("/")
        stem, _, extension = base.partition(".")
        found = folder + slash + stem
        if found != key and spans:
            yield key, spans
            spans = {}
        key = found
        spans.setdefault(_EXTENSIONS.get(extension.lower(), f".{extension}"), span)
    if spans:
        yield key, spans


def _members(path: Path) -> Iterator[tuple[str, Span]]:
    size = path.stat().st_size
    broken = f"{path} is truncated or no tar: copy it again or take it away"
    try:
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                if member.offset_data + member.size > size:
                    raise ValueError(broken)
                if member.isfile():
                    yield member.name.encode("utf-8", "replace").decode(), Span(member.offset_data, member.size)
            end = archive.offset
    except tarfile.TarError as error:
        raise ValueError(broken) from error
    with path.open("rb") as file:
        # tarfile takes a broken header for the end, and says nothing.
        if os.pread(file.fileno(), _BLOCK, end) != bytes(_BLOCK):
            raise ValueError(broken)


def _described(key: str, spans: dict[str, Span], file: int) -> Described | tuple[str, str]:
    def content(member: str) -> bytes:
        return os.pread(file, spans[member].size, spans[member].offset) if member in spans else b""

    if "image" not in spans:
        return key, "no image"
    try:
        about = json.loads(content("json") or b"{}")
        captions = captions_of(content("text").decode(), about)
        label = _label(content("cls"), about)
    except (ValueError, AttributeError) as error:
        return key, f"its .txt, .json or .cls cannot be read ({error})"
    if not captions and label == NO_LABEL:
        return key, "neither caption nor label"
    size = _stated_size(about) or _measured_size(content("image"))
    if size is None:
        return key, "its image cannot be read"
    return Described(key, {m: spans[m] for m in MEMBERS if m in spans}, *size, captions, label)


def _label(cls: bytes, about: dict[str, Any]) -> int:
    label = int(cls) if cls else about.get("label")
    return label if type(label) is int and 0 <= label < _LARGEST else NO_LABEL


def _stated_size(about: dict[str, Any]) -> tuple[int, int] | None:
    """The stored image's size as tools/prepare and img2dataset note it, which saves reading the image."""
    height, width = about.get("height"), about.get("width")
    if type(height) is not int or type(width) is not int or not 0 < min(height, width) <= max(height, width) < _LARGEST:
        return None
    return height, width


def _measured_size(data: bytes) -> tuple[int, int] | None:
    try:
        with opened(data) as image:
            return measure(image)
    except BROKEN_IMAGE:
        return None
