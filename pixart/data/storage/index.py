"""The index of WebDataset tars: where each member lies, and what the plan must know of each sample.

Made by one pass over the tars; with it nothing is scanned while training. ``index.parquet`` is what people and other
programs read; ``index.arrow`` beside it holds the same columns for processes to map into their memory. The second is
made of the first, and made again where it is missing or another's.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pixart.data.storage.files import tars_of
from pixart.data.storage.index_map import read_map, read_unmapped, write_map
from pixart.data.storage.index_seal import is_sealed
from pixart.data.storage.index_table import INDEX_NAME, INDEX_VERSION, MAP_NAME, SCHEMA, Shard, digests_of, noted
from pixart.data.storage.indexing import Indexed, build_index
from pixart.data.storage.locks import lock

__all__ = ["INDEX_NAME", "MAP_NAME", "Index", "Indexed", "Shard", "build_index", "digests_of", "read_index"]

_PATIENCE = 600.0  # seconds for another process to make the map, which takes one for each million rows
_LOOK = 0.05


class Index(NamedTuple):
    """An index, read: one entry of each column per sample, mapped from the disk."""

    root: str  # where the tars lie: a folder, or an address as fsspec takes it
    shards: tuple[Shard, ...]
    columns: dict[str, NDArray[Any]]  # by name, all but the key: (n,) each, not to be written to
    keys: Any  # pyarrow array of n strings
    digests: NDArray[np.uint64]  # (n,) of the keys, see digests_of
    checksums: bool  # whether those of members and shards are known
    fingerprint: str
    stamps: dict[str, Any]  # of the encoders that made the features; empty where there are none


def read_index(root: str | Path, *, index: Path | None = None) -> Index:
    """The index of the tars at ``root``; ``ValueError`` if it is missing, damaged or out of date.

    ``root`` is the folder that tools/prepare.py wrote; tars that lie elsewhere are named in the index. ``index`` is the
    folder of the index where it does not lie in ``root``, which may then be any address. Where the tars are in a local
    folder they are compared with the index by name and size.
    """
    folder = Path(root) if index is None else index
    path = folder / INDEX_NAME
    about = _about(path, f"run tools/prepare.py kind=tars source={root}")
    place = str(root) if index is not None else about["root"] or str(root)
    mend = f"run tools/prepare.py kind=tars source={place}" + ("" if place == str(folder) else f" out={folder}")
    shards = tuple(Shard(*shard) for shard in about["shards"])
    if "://" not in place:
        _check_shards(Path(place), shards, mend)
    batch = _batch(path, folder / MAP_NAME, about["fingerprint"], mend)
    columns = {name: batch.column(name).to_numpy() for name in SCHEMA.names if name != "key"}
    return Index(
        place,
        shards,
        columns,
        batch.column("key"),
        columns["digest"],
        about["checksums"],
        about["fingerprint"],
        about["stamps"],
    )


def _about(path: Path, mend: str) -> dict[str, Any]:
    if not path.is_file():
        if not any(path.parent.glob("*.tar")):
            mend = f"make one of your pictures: tools/prepare.py source={path.parent} out=<new folder>"
        raise ValueError(f"{path} is missing: give the folder that tools/prepare.py wrote, or {mend}")
    try:
        about = noted(pq.read_metadata(path).metadata)
        version = about["version"]
        whole = version != INDEX_VERSION or is_sealed(about)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise _damaged(path, mend) from error
    if version != INDEX_VERSION:
        raise ValueError(f"{path} is of version {version} and this code reads {INDEX_VERSION}: {mend}")
    if not whole:
        raise _damaged(path, mend)
    return about


def _batch(path: Path, mapped: Path, fingerprint: str, mend: str) -> pa.RecordBatch:
    """All rows, of the mapped file, which is made if need be; in memory where its folder cannot be written to."""
    batch = read_map(mapped, fingerprint)
    if batch is None:
        with _in_turn(path):
            batch = read_map(mapped, fingerprint) or _made(path, mapped, fingerprint, mend)
    if batch is None:
        raise ValueError(f"{path} was replaced while it was opened: start again when it is complete")
    return batch


def _made(path: Path, mapped: Path, fingerprint: str, mend: str) -> pa.RecordBatch | None:
    try:
        try:
            write_map(path, mapped)
        except OSError:
            return read_unmapped(path)
    except (pa.ArrowException, OSError, EOFError, KeyError, ValueError) as error:
        raise _damaged(path, mend) from error
    return read_map(mapped, fingerprint)


@contextmanager
def _in_turn(path: Path) -> Iterator[None]:
    """Let the processes of a node make one map after another: those that wait find it made."""
    with path.open("rb") as file:
        until = monotonic() + _PATIENCE
        with suppress(OSError):  # of a file system without locks
            while not lock(file.fileno(), LOCK_EX) and monotonic() < until:
                sleep(_LOOK)
        yield


def _damaged(path: Path, mend: str) -> ValueError:
    return ValueError(f"{path} is damaged or no index of tars: {mend}")


def _check_shards(root: Path, shards: tuple[Shard, ...], mend: str) -> None:
    found = {name: stat.st_size for name, stat in tars_of(root).items()}
    expected = {shard.name: shard.size for shard in shards}
    for name in sorted(found.keys() | expected.keys()):
        if name not in found:
            raise ValueError(f"{root / name} is missing: bring it back, or {mend}")
        if name not in expected:
            raise ValueError(f"{root / name} is not in {INDEX_NAME}: {mend}")
        if found[name] != expected[name]:
            raise ValueError(
                f"{root / name} has {found[name]} bytes where {INDEX_NAME} expects {expected[name]}, so one of the two "
                f"is truncated or out of date: copy the tar again, or {mend}"
            )
