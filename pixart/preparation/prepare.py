"""From a user's images to WebDataset tars with an index, and an account of every file that was met."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from pixart.aside import folder_aside, refuse_unwritable
from pixart.data.storage.index import build_index
from pixart.data.storage.shards import Encoded, write_shards
from pixart.preparation.account import Account, Prepared
from pixart.preparation.prepare_image import Encoding, ready
from pixart.preparation.sources import (
    MOST_IMAGE,
    Candidate,
    Caption,
    Kind,
    Reason,
    captioned,
    class_names,
    kind_of,
    labelled,
    listed,
    read_file,
    reason_of,
)

CLASSES_NAME = "classes.json"
SKIPPED_NAME, CONVERTED_NAME = "skipped.tsv", "converted.tsv"


def prepare(
    source: Path, out: Path, *, kind: Kind | Literal["auto"], shard_size: int, encode: Encoding, quality: int
) -> Prepared:
    """Write the images of ``source`` as tars of ``shard_size`` samples with an index to the folder ``out``.

    ``kind`` auto looks at the source. ``encode`` keep copies the bytes of JPEG, PNG and WebP files as they are (other
    formats become PNG); jpg, png and webp encode anew, the first and the last with ``quality``. Every image is decoded
    once to see that it is whole. Of a folder nothing is read that lies outside of it: links to folders are not entered,
    links to files are followed within it. ``out`` appears all at once or not at all: it is written aside and renamed.
    Raises ``ValueError`` if ``out`` holds something already, cannot be written or is being written by another process,
    or if nothing in ``source`` can be used.
    """
    out = out.resolve()
    kind = kind_of(source) if kind == "auto" else kind
    if source.is_file() != (kind == "jsonl"):
        raise ValueError(f"source={source} is not a {'file' if kind == 'jsonl' else 'folder'}, which kind={kind} needs")
    if source.resolve() in out.parents:
        raise ValueError(f"out={out} lies within source={source}: give a folder outside of it")
    refuse_unwritable(out, key="out")
    with folder_aside(out) as aside:
        with (
            (aside / SKIPPED_NAME).open("w", encoding="utf-8") as skipped,
            (aside / CONVERTED_NAME).open("w", encoding="utf-8") as converted,
        ):
            account = Account(skipped, converted)
            candidates = {"captions": captioned, "classes": labelled, "jsonl": listed}[kind](source)
            samples = write_shards(aside, _encoded(candidates, account, encode, quality), shard_size=shard_size)
        if samples == 0:
            raise ValueError(f"source={source} ({kind}) holds nothing that can be used: {account.sentence()}")
        if kind == "classes":
            (aside / CLASSES_NAME).write_text(json.dumps(class_names(source), indent=0))
        indexed = build_index(aside)
    return account.closed(samples, indexed.shards)


def _encoded(
    candidates: Iterable[Candidate | Caption | Reason], account: Account, encode: Encoding, quality: int
) -> Iterator[Encoded]:
    keys = _Keys()
    for candidate in candidates:
        if isinstance(candidate, Candidate):
            yield from _sample(candidate, keys, account, encode, quality)
        elif isinstance(candidate, Caption):
            account.caption(candidate.name)
        else:
            account.skip(candidate)


def _sample(candidate: Candidate, keys: "_Keys", account: Account, encode: Encoding, quality: int) -> Iterator[Encoded]:
    """The sample of a candidate, or none."""
    try:
        data = read_file(candidate.path, within=candidate.within, most=MOST_IMAGE)
        found = ready(data, candidate.path.suffix, encode=encode, quality=quality)
    except OSError as error:
        found = f"image cannot be read: {reason_of(error)}"
    except ValueError:  # a zero byte
        found = "image has no possible path"
    if isinstance(found, str):
        account.skip(Reason(candidate.name, found))
        return
    account.use(candidate.name, candidate.caption_file, found.changes)
    about = {"height": found.height, "width": found.width, "source": candidate.stem}
    key = keys.new(candidate.stem)
    yield Encoded(key, found.extension, found.stored, candidate.captions, candidate.label, about)


class _Keys:
    """Names of samples in a tar: the path without its suffix, each once.

    The first dot would end the key, and control characters would break lines wherever a key is shown: each becomes _.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def new(self, stem: str) -> str:
        legible = stem.encode("utf-8", "replace").decode()
        path = PurePosixPath("".join(x if x.isprintable() else "_" for x in legible))
        folders = [part for part in path.parts[:-1] if part not in ("/", "..")]
        base = "/".join([*folders, path.stem.replace(".", "_")])
        key, count = base, 1
        while key in self._taken:
            count += 1
            key = f"{base}-{count}"
        self._taken.add(key)
        return key
