"""The index of a folder of WebDataset tars: where each member lies, and what the plan must know of each sample.

One parquet file beside the tars, made by one pass over their headers: with it nothing is scanned while training.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pixart.data.tars import MEMBERS, Described, describe_tar

INDEX_NAME = "index.parquet"
INDEX_VERSION = 1

_SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),  # place in the list of shards
        ("key", pa.string()),
        *((f"{member}_{what}", pa.int64()) for member in MEMBERS for what in ("offset", "size")),  # bytes; size 0: none
        ("height", pa.int32()),  # pixels, upright
        ("width", pa.int32()),
        ("captions", pa.int32()),  # how many there are
        ("caption_length", pa.int32()),  # characters of the first
        ("label", pa.int64()),  # -1: none
    ]
)
_METADATA = b"pixart"


class Index(NamedTuple):
    """An index, read: one entry of each column per sample."""

    shards: tuple[str, ...]  # file names
    columns: dict[str, NDArray[Any]]  # by name, all but the key: (n,) each
    keys: Any  # pyarrow array of n strings
    fingerprint: str


class Indexed(NamedTuple):
    """What a pass over the tars found."""

    rows: int
    shards: int
    skipped: tuple[tuple[str, str], ...]  # (tar and sample, why it is not in the index)


def build_index(root: Path) -> Indexed:
    """Write the index of all ``*.tar`` in ``root``, in place of one that may be there.

    The tars stay as they are; those of img2dataset are of this kind. A sample that cannot be used is left out, and
    returned with the reason. Raises ``ValueError`` where there is no tar, one is truncated, or nothing can be used.
    """
    paths = sorted(root.glob("*.tar"))
    if not paths:
        raise ValueError(f"{root} holds no .tar file: give a folder of WebDataset tars")
    tables = []
    skipped: list[tuple[str, str]] = []
    for place, path in enumerate(paths):
        found = list(describe_tar(path))
        rows = [_row(place, sample) for sample in found if isinstance(sample, Described)]
        tables.append(pa.Table.from_pylist(rows, schema=_SCHEMA))
        skipped += [(f"{path.name}: {s[0]}", s[1]) for s in found if not isinstance(s, Described)]
    table = _distinct(pa.concat_tables(tables), [path.stem for path in paths])
    if not len(table):
        raise ValueError(f"{root}: none of the {len(skipped)} samples in its tars can be used, {skipped[:1]}")
    _write(table, root, {path.name: path.stat().st_size for path in paths})
    return Indexed(len(table), len(paths), tuple(skipped))


def read_index(root: Path) -> Index:
    """The index in ``root``, checked against its tars; ``ValueError`` if it is missing, damaged or out of date."""
    path = root / INDEX_NAME
    mend = f"run tools/prepare.py kind=tars source={root}"
    if not path.is_file():
        raise ValueError(f"{path} is missing: give the folder that tools/prepare.py wrote, or {mend}")
    try:
        table = pq.read_table(path, memory_map=True)
        about = json.loads((table.schema.metadata or {})[_METADATA])
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ValueError(f"{path} is damaged or no index of tars: {mend}") from error
    if about["version"] != INDEX_VERSION:
        raise ValueError(f"{path} is of version {about['version']} and this code reads {INDEX_VERSION}: {mend}")
    _check_shards(root, about["shards"], mend)
    columns = {name: table[name].to_numpy() for name in _SCHEMA.names if name != "key"}
    return Index(tuple(about["shards"]), columns, table["key"].combine_chunks(), about["fingerprint"])


def _check_shards(root: Path, shards: dict[str, int], mend: str) -> None:
    """``shards``: name -> size in bytes when it was indexed."""
    found = {path.name: path.stat().st_size for path in root.glob("*.tar")}
    for name in sorted(found.keys() | shards.keys()):
        if name not in found:
            raise ValueError(f"{root / name} is missing: bring it back, or {mend}")
        if name not in shards:
            raise ValueError(f"{root / name} is not in {INDEX_NAME}: {mend}")
        if found[name] != shards[name]:
            raise ValueError(
                f"{root / name} has {found[name]} bytes where {INDEX_NAME} expects {shards[name]}, so one of the two "
                f"is truncated or out of date: copy the tar again, or {mend}"
            )


def _row(shard: int, sample: Described) -> dict[str, Any]:
    spans = {member: sample.spans.get(member, (0, 0)) for member in MEMBERS}
    return {
        "shard": shard,
        "key": sample.key,
        **{f"{member}_offset": span[0] for member, span in spans.items()},
        **{f"{member}_size": span[1] for member, span in spans.items()},
        "height": sample.height,
        "width": sample.width,
        "captions": len(sample.captions),
        "caption_length": len(sample.captions[0]) if sample.captions else 0,
        "label": sample.label,
    }


def _distinct(table: pa.Table, shards: list[str]) -> pa.Table:
    """The table with unique keys: where two samples share one, every key is led by the name of its shard."""
    keys = table["key"].to_pylist()
    if len(set(keys)) < len(keys):
        keys = [f"{shards[shard]}/{key}" for shard, key in zip(table["shard"].to_pylist(), keys, strict=True)]
    if len(set(keys)) < len(keys):
        seen: set[str] = set()
        twice = next(key for key in keys if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice} stands twice in its tar, so its members cannot be told apart: write the tar again")
    return table.set_column(1, "key", pa.array(keys, pa.string()))


def _write(table: pa.Table, root: Path, shards: dict[str, int]) -> None:
    """Written aside and renamed, so that there is never half an index."""
    about = {"version": INDEX_VERSION, "shards": shards, "fingerprint": _fingerprint(table, shards)}
    aside = root / f".{INDEX_NAME}.{os.getpid()}"
    pq.write_table(table.replace_schema_metadata({_METADATA: json.dumps(about).encode()}), aside)
    aside.replace(root / INDEX_NAME)


def _fingerprint(table: pa.Table, shards: dict[str, int]) -> str:
    """sha256 of every column and of the shards: of the index, not of the pixels."""
    digest = hashlib.sha256(json.dumps([INDEX_VERSION, shards]).encode())
    for name in _SCHEMA.names:
        column = table[name]
        digest.update("\n".join(column.to_pylist()).encode() if name == "key" else column.to_numpy().astype("<i8").data)
    return digest.hexdigest()
