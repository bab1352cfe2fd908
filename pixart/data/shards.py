"""Shards: WebDataset tars as a source, each member read by its offset; and the writer of such tars."""

import json
import os
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from pixart.data.index import read_index
from pixart.data.source import Sample
from pixart.data.tars import NO_LABEL, captions_of
from pixart.data.transforms import decode

_OPEN_FILES = 64  # kept open by a process


class Encoded(NamedTuple):
    """A sample as it goes into a tar."""

    key: str  # unique, without a dot
    extension: str  # jpg, png or webp
    image: bytes
    captions: tuple[str, ...]
    label: int | None
    about: dict[str, Any]  # height and width in pixels, upright, and whatever else is worth keeping


def write_shards(folder: Path, samples: Iterable[Encoded], *, shard_size: int) -> int:
    """Write ``samples`` as folder/000000.tar, … of ``shard_size`` samples each; returns how many there were.

    The same samples make the same bytes.
    """
    from webdataset import ShardWriter

    pattern = str(folder.resolve()).replace("%", "%%") + "/%06d.tar"
    written = 0
    with ShardWriter(pattern, maxcount=shard_size, maxsize=float("inf"), verbose=0, encoder=False, mtime=0) as writer:
        for sample in samples:
            writer.write(_members(sample))
            written += 1
    return written


def _members(sample: Encoded) -> dict[str, Any]:
    about = sample.about if len(sample.captions) < 2 else {**sample.about, "captions": sample.captions}
    members = {"__key__": sample.key, sample.extension: sample.image, "json": json.dumps(about).encode()}
    if sample.captions:
        members["txt"] = sample.captions[0].encode()
    if sample.label is not None:
        members["cls"] = str(sample.label).encode()
    return members


class Shards:
    """A folder of tars with an index, as a ``Source``. Files are opened as they are needed, in each process anew."""

    def __init__(self, root: str | Path):
        """Open the folder ``root``; ``ValueError`` in one sentence if its index does not fit its tars."""
        index = read_index(root)
        self._root = Path(index.root)
        self._names, self._keys, self._columns = [shard.name for shard in index.shards], index.keys, index.columns
        self.heights, self.widths = self._columns["height"], self._columns["width"]  # (n,) int32, pixels
        labels = self._columns["label"]
        self.labels = labels if (labels != NO_LABEL).any() else None  # (n,) int64, -1 where one has none
        self.fingerprint = index.fingerprint
        self._files: OrderedDict[int, int] = OrderedDict()  # shard -> descriptor, the latest used last

    def __len__(self) -> int:
        return len(self.heights)

    def key(self, row: int) -> str:
        """The name of a row."""
        return str(self._keys[row].as_py())

    def read(self, row: int) -> Sample:
        """The sample of a row; ``ValueError`` with its key if its bytes are not there or are no image."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        key, label = self.key(row), int(self._columns["label"][row])
        captions: tuple[str, ...] = ()
        if self._columns["captions"][row]:
            text = self._member(row, "text")
            several = self._columns["captions"][row] > 1 or not text
            captions = captions_of(text.decode(), json.loads(self._member(row, "json")) if several else {})
        image = decode(self._member(row, "image"), f"{self._root} {key}")
        return Sample(key, image, captions, None if label == NO_LABEL else label)

    def _member(self, row: int, member: str) -> bytes:
        offset, size = (int(self._columns[f"{member}_{what}"][row]) for what in ("offset", "size"))
        if size == 0:
            return b""
        shard = int(self._columns["shard"][row])
        data = os.pread(self._file(shard), size, offset)  # by position: processes may share the descriptor
        if len(data) != size:
            raise ValueError(
                f"{self._root / self._names[shard]} ends inside {self.key(row)}: it was truncated after it was indexed"
            )
        return data

    def _file(self, shard: int) -> int:
        if shard not in self._files:
            if len(self._files) == _OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
            self._files[shard] = os.open(self._root / self._names[shard], os.O_RDONLY)
        self._files.move_to_end(shard)
        return self._files[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}  # descriptors mean nothing to another process

    def __del__(self) -> None:
        for file in self.__dict__.get("_files", {}).values():
            os.close(file)
