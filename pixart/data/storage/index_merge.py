"""From the parts of many tars to one index, a piece at a time: its size is bounded by the disk, not by the memory."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pixart.data.storage.index_table import SCHEMA, aside, digests_of, note

_ROWS = 2**18  # held at once
_REPEATING = ["shard", "height", "width", "captions", "caption_length", "label"]  # smaller with a dictionary


def merge(parts: Sequence[Path], names: Sequence[str], about: dict[str, Any], root: str | None, to: Path) -> None:
    """Write the rows of ``parts``, which are of the tars ``names``, to the parquet file ``to``.

    ``about`` and ``root`` go with them, and a fingerprint of ``about`` and of every row. Keys are unique: where two
    tars share one, every key is led by the name of its tar.
    """
    led = _share_a_key(parts)
    hashes = {name: hashlib.sha256() for name in SCHEMA.names if name != "key"}  # the digest stands for the key
    with aside(to) as new, pq.ParquetWriter(new, SCHEMA, compression="zstd", use_dictionary=_REPEATING) as writer:
        for table in _gathered(_placed(parts, names, led)):
            for name, digest in hashes.items():
                digest.update(table[name].to_numpy().data)
            writer.write_table(table, row_group_size=_ROWS)
        content = [about, {name: digest.hexdigest() for name, digest in hashes.items()}]
        fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        writer.add_key_value_metadata(note({**about, "root": root, "fingerprint": fingerprint}))


def write_map(parquet: Path, to: Path) -> None:
    """The columns of an index in one uncompressed batch of an Arrow file, which a process maps instead of reading."""
    file = pq.ParquetFile(parquet)
    schema = SCHEMA.with_metadata(file.metadata.metadata)
    with TemporaryDirectory(dir=to.parent, prefix=".columns") as name:
        folder = Path(name)
        _spread(file, folder)
        arrays = [_column(field, file.metadata.num_rows, folder) for field in SCHEMA]
        with aside(to) as new, pa.OSFile(str(new), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))


def _share_a_key(parts: Sequence[Path]) -> bool:
    """Whether two tars share a key; two keys of one digest, which a million data sets do not meet, count as one."""
    digests = np.concatenate([pq.ParquetFile(part).read(["digest"])["digest"].to_numpy() for part in parts])
    digests.sort()
    return bool((digests[1:] == digests[:-1]).any())


def _placed(parts: Sequence[Path], names: Sequence[str], led: bool) -> Iterator[pa.Table]:
    """The rows of each part with the place of its tar."""
    for place, (part, name) in enumerate(zip(parts, names, strict=True)):
        table = pq.ParquetFile(part).read()
        columns = {**{column: table[column] for column in table.column_names}, "shard": [place] * len(table)}
        if led:
            stem = pa.scalar(Path(name).stem, pa.large_string())
            columns["key"] = pc.binary_join_element_wise(stem, table["key"], pa.scalar("/", pa.large_string()))
            columns["digest"] = digests_of(columns["key"].to_pylist())
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


def _spread(file: pq.ParquetFile, folder: Path) -> None:
    """Each column to a file of its own, as it lies in memory; where each key begins and ends beside the keys."""
    end = 0
    (folder / "ends").write_bytes(bytes(8))
    for batch in file.iter_batches(batch_size=_ROWS):
        for name in SCHEMA.names:
            values = batch.column(name)
            if name != "key":
                _append(folder / name, values.to_numpy().data)
                continue
            ends = np.frombuffer(values.buffers()[1], dtype=np.int64)[values.offset :][: len(values) + 1]
            _append(folder / name, memoryview(values.buffers()[2])[ends[0] : ends[-1]])
            _append(folder / "ends", (ends[1:] + (end - ends[0])).data)
            end += int(ends[-1] - ends[0])


def _append(path: Path, data: memoryview) -> None:
    with path.open("ab") as file:
        file.write(data)


def _column(field: pa.Field, rows: int, folder: Path) -> pa.Array:
    ends = [_mapped(folder / "ends")] if field.name == "key" else []
    return pa.Array.from_buffers(field.type, rows, [None, *ends, _mapped(folder / field.name)])


def _mapped(path: Path) -> pa.Buffer:
    return pa.memory_map(str(path)).read_buffer()
