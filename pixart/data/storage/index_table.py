"""The columns of an index, and the part of it that one tar makes."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pixart.aside import written_aside
from pixart.data.storage.tars import MEMBERS, Described, describe_tar

INDEX_VERSION = 3
INDEX_NAME = "index.parquet"
MAP_NAME = "index.arrow"

_METADATA = b"pixart"

_SPANS = [(f"{m}_{what}", kind) for m in MEMBERS for what, kind in (("offset", pa.int64()), ("size", pa.int32()))]
SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),  # place in the list of shards
        ("key", pa.large_string()),
        *_SPANS,  # bytes; size 0: the sample has no such member
        ("height", pa.int32()),  # pixels, upright
        ("width", pa.int32()),
        ("captions", pa.int16()),  # how many there are
        ("caption_length", pa.int32()),  # characters of the first
        ("label", pa.int64()),  # -1: none
        ("checksum", pa.uint32()),  # zlib.crc32 over the members in the order of MEMBERS
        ("digest", pa.uint64()),  # of the key, see digests_of
    ]
)
_OF_A_PART = pa.schema([field for field in SCHEMA if field.name != "shard"])
_MOST_CAPTIONS = 2**15 - 1


class Shard(NamedTuple):
    """A tar as it was when it was indexed."""

    name: str
    size: int  # bytes
    sha256: str | None  # of the whole file; None where checksums were not asked for


class Tar(NamedTuple):
    """A tar to be indexed."""

    name: str
    size: int | None  # bytes, as far as it is known before it is read
    mark: str  # another when its content is another: a time, an entity tag


class Part(NamedTuple):
    """What is known of an indexed tar beside its rows."""

    tar: Tar
    checksums: bool
    size: int  # bytes of the tar
    sha256: str | None  # of the tar; None without checksums
    rows: int
    skipped: list[tuple[str, str]]  # (key, why it is not in the index)


Fetched = Callable[[Tar], AbstractContextManager[Path]]  # where to read a tar, for as long as it takes


def digests_of(keys: Iterable[str]) -> NDArray[np.uint64]:
    """What stands for a key in vectorised work: the first eight bytes of its sha256, the highest first. (n,) uint64."""
    hashes = b"".join(hashlib.sha256(key.encode()).digest()[:8] for key in keys)
    return np.frombuffer(hashes, dtype=">u8").astype(np.uint64)


def make_part(tar: Tar, folder: Path, fetched: Fetched, checksums: bool) -> Part:
    """The part of one tar, written to ``folder``; if it is there already, of this very tar, it is only looked at."""
    path = folder / f"{tar.name}.parquet"
    known = _known(path)
    if known is not None and (known.tar, known.checksums) == (tar, checksums):
        return known
    with fetched(tar) as local:
        contents = describe_tar(local, checksums=checksums)
        size = local.stat().st_size
    part = Part(tar, checksums, size, contents.sha256, len(contents.samples), list(contents.skipped))
    with written_aside(path) as new:
        table = _table(contents.samples)
        pq.write_table(table.replace_schema_metadata(note({"version": INDEX_VERSION, "part": part})), new)
    return part


def note(about: dict[str, Any]) -> dict[bytes, bytes]:
    """``about`` as the metadata of a parquet or Arrow file."""
    return {_METADATA: json.dumps(about).encode()}


def noted(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    """What ``note`` wrote; ``KeyError`` or ``ValueError`` where it did not."""
    about = json.loads((metadata or {})[_METADATA])
    if not isinstance(about, dict):
        raise ValueError("the metadata is no object")
    return about


def _known(path: Path) -> Part | None:
    if not path.is_file():
        return None
    try:
        about = noted(pq.read_metadata(path).metadata)
        if about["version"] != INDEX_VERSION:
            return None
        tar, checksums, size, sha256, rows, skipped = about["part"]
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return None  # damaged: made anew
    return Part(Tar(*tar), checksums, size, sha256, rows, [(key, why) for key, why in skipped])


def _table(samples: Sequence[Described]) -> pa.Table:
    columns = {
        "key": [sample.key for sample in samples],
        "height": [sample.height for sample in samples],
        "width": [sample.width for sample in samples],
        "captions": [min(len(sample.captions), _MOST_CAPTIONS) for sample in samples],
        "caption_length": [len(sample.captions[0]) if sample.captions else 0 for sample in samples],
        "label": [sample.label for sample in samples],
        "checksum": [sample.checksum for sample in samples],
        "digest": digests_of(sample.key for sample in samples),
    }
    for member in MEMBERS:
        spans = [sample.spans.get(member, (0, 0)) for sample in samples]
        columns[f"{member}_offset"] = [offset for offset, _ in spans]
        columns[f"{member}_size"] = [size for _, size in spans]
    return pa.table({name: columns[name] for name in _OF_A_PART.names}, schema=_OF_A_PART)
