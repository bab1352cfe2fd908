"""From a user's images to WebDataset tars with an index, and an account of every file that was met."""

import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, TextIO

from PIL import Image

from pixart.data.storage.index import build_index
from pixart.data.storage.shards import Encoded, write_shards
from pixart.data.transforms import BROKEN_IMAGE, measure, opened, rgb
from pixart.preparation.sources import (
    CAPTION_USED,
    Candidate,
    Kind,
    Reason,
    captioned,
    class_names,
    kind_of,
    labelled,
    listed,
    read_file,
)

IMAGE_USED = "image"
CLASSES_NAME = "classes.json"
SKIPPED_NAME = "skipped.tsv"

Encoding = Literal["keep", "jpg", "png", "webp"]
_EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
_FORMATS = {extension: name for name, extension in _EXTENSIONS.items()}


class Prepared(NamedTuple):
    """What became of the source."""

    samples: int
    shards: int
    used: dict[str, int]  # files or lines, by what they were used as
    skipped: dict[str, int]  # files or lines, by the reason
    first_skipped: dict[str, str]  # the first name of each reason; all are in skipped.tsv


def prepare(
    source: Path, out: Path, *, kind: Kind | Literal["auto"], shard_size: int, encode: Encoding, quality: int
) -> Prepared:
    """Write the images of ``source`` as tars of ``shard_size`` samples with an index to the folder ``out``.

    ``kind`` auto looks at the source. ``encode`` keep copies the bytes of JPEG, PNG and WebP files as they are (other
    formats become PNG); jpg, png and webp encode anew, the first and the last with ``quality``. Every image is decoded
    once to see that it is whole. ``out`` appears all at once or not at all: it is written aside and renamed.
    Raises ``ValueError`` if ``out`` holds something already, or if nothing in ``source`` can be used.
    """
    out = out.resolve()
    kind = kind_of(source) if kind == "auto" else kind
    if source.is_file() != (kind == "jsonl"):
        raise ValueError(f"source={source} is not a {'file' if kind == 'jsonl' else 'folder'}, which kind={kind} needs")
    if source.resolve() in out.parents:
        raise ValueError(f"out={out} lies within source={source}: give a folder outside of it")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out={out} holds something already: give a new folder, or delete it")
    aside = out.parent / f".{out.name}.unfinished"
    shutil.rmtree(aside, ignore_errors=True)  # of a run that was killed
    aside.mkdir(parents=True)
    try:
        with (aside / SKIPPED_NAME).open("w", encoding="utf-8") as record:
            account = _Account(record)
            candidates = {"captions": captioned, "classes": labelled, "jsonl": listed}[kind](source)
            samples = write_shards(aside, _encoded(candidates, account, encode, quality), shard_size=shard_size)
        if samples == 0:
            raise ValueError(f"source={source} ({kind}) holds nothing that can be used: {account.sentence()}")
        if kind == "classes":
            (aside / CLASSES_NAME).write_text(json.dumps(class_names(source), indent=0))
        indexed = build_index(aside)
        os.replace(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Prepared(samples, indexed.shards, dict(account.used), dict(account.skipped), account.first)


class _Account:
    """Counts what each file or line came to, and writes the name of each that was skipped."""

    def __init__(self, record: TextIO):
        self._record = record
        self.used = Counter[str]()
        self.skipped = Counter[str]()
        self.first: dict[str, str] = {}

    def use(self, what: str) -> None:
        self.used[what] += 1

    def skip(self, reason: Reason) -> None:
        self.skipped[reason.why] += 1
        self.first.setdefault(reason.why, reason.name)
        self._record.write(f"{reason.why}\t{json.dumps(reason.name)}\n")

    def sentence(self) -> str:
        counts = [f"{count} x {why} (as {self.first[why]})" for why, count in self.skipped.most_common()]
        return ", ".join(counts) or "it is empty"


def _encoded(
    candidates: Iterable[Candidate | Reason], account: _Account, encode: Encoding, quality: int
) -> Iterator[Encoded]:
    keys = _Keys()
    for candidate in candidates:
        if isinstance(candidate, Reason) and candidate.why == CAPTION_USED:
            account.use(CAPTION_USED)
            continue
        sample = candidate if isinstance(candidate, Reason) else _sample(candidate, keys, encode, quality)
        if isinstance(sample, Reason):
            account.skip(sample)
        else:
            account.use(IMAGE_USED)
            yield sample


def _sample(candidate: Candidate, keys: "_Keys", encode: Encoding, quality: int) -> Encoded | Reason:
    try:
        data = read_file(candidate.path)
    except OSError as error:
        return Reason(candidate.name, f"image cannot be read: {(error.strerror or 'error').lower()}")
    except ValueError:  # a zero byte
        return Reason(candidate.name, "image has no possible path")
    try:
        with opened(data) as image:
            height, width = measure(image)
            keep = encode == "keep" and image.format in _EXTENSIONS
            extension = _EXTENSIONS[image.format or ""] if keep else "png" if encode == "keep" else encode
            upright = rgb(image)  # decodes, so that damage shows now
    except BROKEN_IMAGE:
        return Reason(candidate.name, "image cannot be decoded")
    try:
        stored = data if keep else _bytes(upright, extension, quality)
    except (OSError, ValueError):
        return Reason(candidate.name, f"image is too large for {extension}")
    about = {"height": height, "width": width, "source": candidate.stem}
    return Encoded(keys.new(candidate.stem), extension, stored, candidate.captions, candidate.label, about)


def _bytes(image: Image.Image, extension: str, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=_FORMATS[extension], quality=quality)
    return buffer.getvalue()


class _Keys:
    """Names of samples in a tar: the path without its suffix, in which the first dot would end the key, each once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def new(self, stem: str) -> str:
        path = PurePosixPath(stem.encode("utf-8", "replace").decode())
        folders = [part for part in path.parts[:-1] if part not in ("/", "..")]
        base = "/".join([*folders, path.stem.replace(".", "_")])
        key, count = base, 1
        while key in self._taken:
            count += 1
            key = f"{base}-{count}"
        self._taken.add(key)
        return key
