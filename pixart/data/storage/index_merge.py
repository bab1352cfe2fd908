"""From the parts of many tars to one index, a piece at a time: its size is bounded by the disk, not by the memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pixart.aside import written_aside
from pixart.data.storage.index_seal import Hashes, sealed
from pixart.data.storage.index_table import SCHEMA, digests_of, note

_ROWS = 2**18  # held at once
_REPEATING = ["shard", "height", "width", "captions", "caption_length", "label"]  # smaller with a dictionary


def merge(parts: Sequence[Path], names: Sequence[str], about: dict[str, Any], root: str | None, to: Path) -> None:
    """Write the rows of ``parts``, which are of the tars ``names``, to the parquet file ``to``.

    ``about`` and ``root`` go with them, and a fingerprint of ``about`` and of every row. Keys are unique: where tars
    share one, the first keeps it, and in the others it is led by the name of the tar.
    """
    leads = _leads(parts, names)
    hashes, options = Hashes(), {"use_dictionary": _REPEATING, "write_page_checksum": True}
    with written_aside(to) as new, pq.ParquetWriter(new, SCHEMA, compression="zstd", **options) as writer:
        for table in _gathered(_placed(parts, names, leads)):
            hashes.update(table)
            writer.write_table(table, row_group_size=_ROWS)
        writer.add_key_value_metadata(note(sealed(about, root, hashes.digests())))


def _leads(parts: Sequence[Path], names: Sequence[str]) -> list[NDArray[np.int32]]:
    """How often each key of each part is led by the name of its tar: the first that has a key keeps it as it is.

    Two keys of one digest, which a million data sets do not meet, count as one.
    """
    files = [pq.ParquetFile(part) for part in parts]
    digests = np.concatenate([file.read(["digest"])["digest"].to_numpy() for file in files])
    leads = np.zeros(len(digests), dtype=np.int32)
    starts = np.cumsum([file.metadata.num_rows for file in files])[:-1]
    while (again := _repeated(digests, leads)).any():  # once, but where a key thus led is another's as it is
        leads += again
        pieces = (np.split(rows, starts) for rows in (again, leads, digests))
        for file, name, chosen, lead, digest in zip(files, names, *pieces, strict=True):
            if chosen.any():
                digest[chosen] = digests_of(_led(file.read(["key"])["key"].filter(chosen), name, lead[chosen]))
    return np.split(leads, starts)


def _repeated(digests: NDArray[np.uint64], leads: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which rows have the digest of a row that was led less, or as often and stands before them. (n,)"""
    order = np.lexsort((leads, digests))
    again = np.zeros(len(digests), dtype=np.bool_)
    again[order[1:]] = digests[order[1:]] == digests[order[:-1]]
    return again


def _led(keys: pa.ChunkedArray, name: str, leads: NDArray[np.int32]) -> list[str]:
    stem = f"{Path(name).stem}/"
    return [stem * lead + key for key, lead in zip(keys.to_pylist(), leads.tolist(), strict=True)]


def _placed(parts: Sequence[Path], names: Sequence[str], leads: Sequence[NDArray[np.int32]]) -> Iterator[pa.Table]:
    """The rows of each part with the place of its tar."""
    for place, (part, name, lead) in enumerate(zip(parts, names, leads, strict=True)):
        table = pq.ParquetFile(part).read()
        columns = {**{column: table[column] for column in table.column_names}, "shard": [place] * len(table)}
        if lead.any():
            columns["key"] = _led(table["key"], name, lead)
            columns["digest"] = digests_of(columns["key"])
        yield pa.table({column: columns[column] for column in SCHEMA.names}, schema=SCHEMA)


def _gathered(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in fewer and larger tables."""
    waiting: list[pa.Table] = []
    rows = 0
    for table in tables:
        waiting.append(table)
        rows += len(table)
        if rows >= _ROWS:
            yield pa.concat_tables(waiting)
            waiting, rows = [], 0
    if waiting:
        yield pa.concat_tables(waiting)
