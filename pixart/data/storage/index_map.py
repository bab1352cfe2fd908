"""The columns of an index in one file that a process maps into its memory, and checks to its last byte before."""

import zlib
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pixart.aside import written_aside
from pixart.data.storage.index_seal import Hashes
from pixart.data.storage.index_table import SCHEMA, noted

_ROWS = 2**18  # held at once
_PIECE = 2**20  # bytes
_TRAILER = 4  # bytes after those of Arrow: zlib.crc32 over these, the lowest first


def write_map(parquet: Path, to: Path) -> None:
    """The columns of an index in one uncompressed batch of an Arrow file, which a process maps instead of reading.

    Raises ``ValueError``, or what Arrow raises, where the index ``parquet`` is damaged.
    """
    file = pq.ParquetFile(parquet, page_checksum_verification=True)
    schema = SCHEMA.with_metadata(file.metadata.metadata)
    with TemporaryDirectory(dir=to.parent, prefix=".columns") as name:
        folder = Path(name)
        _check(_spread(file, folder), file)
        arrays = [_column(field, file.metadata.num_rows, folder) for field in SCHEMA]
        with written_aside(to) as new:
            with pa.OSFile(str(new), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
            checksum = _checksum(new, new.stat().st_size)
            with new.open("ab") as out:
                out.write(checksum)


def read_map(path: Path, fingerprint: str) -> pa.RecordBatch | None:
    """All rows, mapped; None where there is no such file, it is damaged, or of an index of another fingerprint."""
    try:
        size = path.stat().st_size - _TRAILER if path.is_file() else -1
        if size < 0:
            return None
        # Through a buffer first: pages that are only looked at through a map count as the memory of the process.
        mapped = pa.memory_map(str(path)).read_buffer()
        if mapped.slice(size).to_pybytes() != _checksum(path, size):
            return None
        reader = pa.ipc.open_file(mapped.slice(0, size))
        return reader.get_batch(0) if noted(reader.schema.metadata)["fingerprint"] == fingerprint else None
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return None


def read_unmapped(parquet: Path) -> pa.RecordBatch:
    """All rows, in memory; raises what ``write_map`` does."""
    file, hashes = pq.ParquetFile(parquet, page_checksum_verification=True), Hashes()
    table = file.read().combine_chunks()
    hashes.update(table)
    _check(hashes, file)
    return table.to_batches()[0]


def _check(found: Hashes, file: pq.ParquetFile) -> None:
    if found.digests() != noted(file.metadata.metadata)["columns"]:
        raise ValueError("its columns are not those that were written")


def _checksum(path: Path, size: int) -> bytes:
    checksum, buffer = 0, memoryview(bytearray(_PIECE))
    with path.open("rb", buffering=0) as file:
        while size and (count := file.readinto(buffer[: min(size, _PIECE)])):
            checksum = zlib.crc32(buffer[:count], checksum)
            size -= count
    return checksum.to_bytes(_TRAILER, "little")


def _spread(file: pq.ParquetFile, folder: Path) -> Hashes:
    """Each column to a file of its own, as it lies in memory; where each key begins and ends beside the keys."""
    end, hashes = 0, Hashes()
    (folder / "ends").write_bytes(bytes(8))
    for batch in file.iter_batches(batch_size=_ROWS):
        hashes.update(batch)
        for name in SCHEMA.names:
            values = batch.column(name)
            if name != "key":
                _append(folder / name, values.to_numpy().data)
                continue
            ends = np.frombuffer(values.buffers()[1], dtype=np.int64)[values.offset :][: len(values) + 1]
            _append(folder / name, memoryview(values.buffers()[2])[ends[0] : ends[-1]])
            _append(folder / "ends", (ends[1:] + (end - ends[0])).data)
            end += int(ends[-1] - ends[0])
    return hashes


def _append(path: Path, data: memoryview) -> None:
    with path.open("ab") as file:
        file.write(data)


def _column(field: pa.Field, rows: int, folder: Path) -> pa.Array:
    ends = [_mapped(folder / "ends")] if field.name == "key" else []
    return pa.Array.from_buffers(field.type, rows, [None, *ends, _mapped(folder / field.name)])


def _mapped(path: Path) -> pa.Buffer:
    return pa.memory_map(str(path)).read_buffer()
