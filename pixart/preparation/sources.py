"""What a user's folder or list holds: every file and line becomes an image to use, or a reason why it is not used."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

Kind = Literal["captions", "classes", "jsonl"]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
CAPTION_SUFFIX = ".txt"
MOST_IMAGE, MOST_CAPTION = 1 << 30, 1 << 20  # bytes of a file; more would fill the memory and is no image, no caption
_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character: JSON can say it, UTF-8 cannot


class Candidate(NamedTuple):
    """An image with what is said of it, not opened yet."""

    name: str  # what the user knows it by: a path within the source, or file:line
    path: Path
    stem: str  # what its key is made of: its path as the source gives it
    captions: tuple[str, ...]
    label: int | None
    within: Path | None  # the folder that links may not lead out of; None for what a list names
    caption_file: str | None = None  # as ``name``


class Caption(NamedTuple):
    """The file of a caption; comes after all images that it may belong to."""

    name: str


class Reason(NamedTuple):
    """Why a file or a line is not used."""

    name: str
    why: str


def kind_of(source: Path) -> Kind:
    """What ``source`` holds: a .jsonl, a folder with captions beside its images, or a folder of class folders.

    Raises ``ValueError`` where there is nothing, nothing of these kinds, or tars.
    """
    if source.is_file() and source.suffix == ".jsonl":
        return "jsonl"
    if not source.is_dir():
        raise ValueError(f"source={source} is neither a folder nor a .jsonl file")
    if any(source.glob("*.tar")):
        raise ValueError(f"source={source} holds tars already: index them where they are, with kind=tars")
    if any(_has_caption(names) for _, _, names in os.walk(source)):
        return "captions"
    if any(child.is_dir() for child in source.iterdir()):
        return "classes"
    raise ValueError(f"source={source} has neither .txt captions beside its images nor a folder for each class")


def _has_caption(names: list[str]) -> bool:
    stems = {Path(name).stem for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES}
    return any(Path(name).suffix.lower() == CAPTION_SUFFIX and Path(name).stem in stems for name in names)


def read_file(path: Path, *, within: Path | None, most: int) -> bytes:
    """The bytes of a regular file (a pipe would wait for ever) of at most ``most`` bytes.

    Links are followed, but none out of the folder ``within``. ``OSError`` where there is no such file.
    """
    place = Path(os.path.realpath(path))
    if within is not None and not place.is_relative_to(os.path.realpath(within)):
        raise OSError(None, "a link out of the folder")
    if not place.is_file() and place.exists():
        raise OSError(None, "not a regular file")
    if place.is_file() and place.stat().st_size > most:
        raise OSError(None, f"more than {most >> 20} MiB")
    return place.read_bytes()


def reason_of(error: OSError) -> str:
    """What the system says, as the end of a sentence."""
    said = error.strerror or "error"
    return said[:1].lower() + said[1:]


def captioned(source: Path) -> Iterator[Candidate | Caption | Reason]:
    """The images of a folder, at any depth, each with the .txt of its own name beside it."""
    for folder, names, problems in _walk(source):
        yield from problems
        images = [name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES]
        captions = {Path(name).stem: name for name in names if Path(name).suffix.lower() == CAPTION_SUFFIX}
        for name in images:
            yield _with_caption(source, folder / name, captions.get(Path(name).stem))
        with_image = {Path(name).stem for name in images}
        for name in sorted(set(names) - set(images)):
            stem, shown = Path(name).stem, _shown(source, folder / name)
            if Path(name).suffix.lower() != CAPTION_SUFFIX:
                yield Reason(shown, "neither image nor caption")
            elif stem not in with_image:
                yield Reason(shown, "caption without an image")
            else:
                yield Caption(shown) if captions[stem] == name else Reason(shown, "second caption of an image")


def _shown(source: Path, path: Path) -> str:
    return str(path.relative_to(source))


def _with_caption(source: Path, path: Path, beside: str | None) -> Candidate | Reason:
    shown = _shown(source, path)
    if beside is None:
        return Reason(shown, "no caption beside it")
    file = path.with_name(beside)
    try:
        # Some editors mark UTF-8 with three bytes in front.
        caption = read_file(file, within=source, most=MOST_CAPTION).decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return Reason(shown, "its caption is not UTF-8")
    except OSError as error:
        return Reason(shown, f"its caption cannot be read: {reason_of(error)}")
    if not caption:
        return Reason(shown, "its caption is empty")
    return Candidate(shown, path, shown, (caption,), None, source, _shown(source, file))


def class_names(source: Path) -> list[str]:
    """The class folders of ``source``, sorted: the place in this list is the label."""
    return sorted(child.name for child in source.iterdir() if child.is_dir() and not child.is_symlink())


def labelled(source: Path) -> Iterator[Candidate | Reason]:
    """The images of class folders, at any depth within them, labelled by ``class_names``."""
    labels = {name: label for label, name in enumerate(class_names(source))}
    for folder, names, problems in _walk(source):
        yield from problems
        for name in names:
            path = folder / name
            inside = path.relative_to(source)
            if path.suffix.lower() not in IMAGE_SUFFIXES:
                yield Reason(str(inside), "not an image")
            elif len(inside.parts) == 1:
                yield Reason(str(inside), "not in a class folder")
            else:
                yield Candidate(str(inside), path, str(inside), (), labels[inside.parts[0]], source)


def _walk(source: Path) -> Iterator[tuple[Path, list[str], list[Reason]]]:
    """Each folder with its file names, sorted, and what cannot be entered."""
    unreadable: list[Reason] = []

    def remember(error: OSError) -> None:
        unreadable.append(Reason(str(Path(error.filename).relative_to(source)), "folder that cannot be read"))

    for folder, folders, names in os.walk(source, onerror=remember):
        folders.sort()
        here = Path(folder)
        linked = [
            Reason(str((here / f).relative_to(source)), "link to a folder") for f in folders if os.path.islink(here / f)
        ]
        yield here, sorted(names), linked + unreadable
        unreadable.clear()
    if unreadable:
        yield source, [], unreadable


def listed(source: Path) -> Iterator[Candidate | Reason]:
    """The lines of a .jsonl: {"image": path, "caption": text or "captions": [text, …], "label": whole number}.

    A path is taken from the folder of the file, and may lead anywhere; a line needs an image, and a caption or a label.
    """
    with source.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _from_line(f"{source.name}:{number}", line, source.parent)


def _from_line(name: str, line: bytes, folder: Path) -> Candidate | Reason:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return Reason(name, "line is not JSON")
    if not isinstance(entry, dict) or not isinstance(entry.get("image"), str) or not entry["image"]:
        return Reason(name, "line names no image")
    captions, label = _captions(entry), entry.get("label")
    if captions is None:
        return Reason(name, "its caption is not text")
    if label is not None and (type(label) is not int or not 0 <= label < 2**31):
        return Reason(name, "its label is not a whole number from 0")
    if not captions and label is None:
        return Reason(name, "neither caption nor label")
    return Candidate(name, folder / entry["image"], entry["image"], captions, label, None)


def _captions(entry: dict[str, Any]) -> tuple[str, ...] | None:
    """The captions of a line, none empty; None where one is not text."""
    found = entry["captions"] if isinstance(entry.get("captions"), list) else [entry.get("caption")]
    texts = [text for text in found if text is not None]
    if not all(isinstance(text, str) and not _SURROGATE.search(text) for text in texts):
        return None
    return tuple(text.strip() for text in texts if text.strip())
