"""Shards: WebDataset tars as a source, each member read by its offset; and the writer of such tars."""

import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from tarfile import HeaderError, TarInfo
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pixart.data.features import unpack
from pixart.data.source import BadSample, Sample
from pixart.data.storage.ahead import Ahead
from pixart.data.storage.cache import CacheSettings, ShardCache
from pixart.data.storage.files import Files, Folder, read_at
from pixart.data.storage.index import read_index
from pixart.data.storage.remote_index import fetched_index, is_remote
from pixart.data.storage.tars import MEMBERS, NO_LABEL, captions_of
from pixart.data.transforms import decode

__all__ = ["CacheSettings", "Encoded", "Shards", "write_shards"]

_GAP = 65536  # bytes between the members of a sample, up to which they are read at once
_HEADER = 512  # bytes, just before each member of a tar
_LONGEST_NAME = 100  # bytes of a name in such a header


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
    """Tars with an index, as a ``Source``: in a local folder, or at an address through a cache."""

    def __init__(self, root: str | Path, *, cache: CacheSettings | None = None, verify: bool = True):
        """Open the tars at ``root``, a folder or an address as fsspec takes it, where their index lies too; the index
        may also lie in the folder ``root`` and name another place. ``cache`` is for tars that are not in a local
        folder. ``verify`` compares the bytes of each sample with the checksum in the index.

        Raises ``ValueError`` in one sentence if the index does not fit its tars.
        """
        root = str(root).removeprefix("file://")
        folder = fetched_index(root, cache) if is_remote(root) else None
        self._open(root, folder, cache, verify)

    def _open(self, root: str, folder: Path | None, cache: CacheSettings | None, verify: bool) -> None:
        self._opened_as = root, folder, cache, verify
        index = read_index(root, index=folder)
        self.keys, self._columns = index.keys, index.columns
        self.heights, self.widths = index.columns["height"], index.columns["width"]  # (n,) int32, pixels
        labels = index.columns["label"]
        self.labels = labels if (labels != NO_LABEL).any() else None  # (n,) int64, -1 where one has none
        self.caption_counts = index.columns["captions"]  # (n,) int16
        self.shards = index.columns["shard"]  # (n,) int32
        self.digests = index.digests  # (n,) uint64
        self.fingerprint, self.stamps = index.fingerprint, index.stamps or None
        self._verify = verify and index.checksums
        self._doubted: set[int] = set()  # shards that were opened or fetched anew
        self._ahead: Ahead | None = None
        self._files: Files
        if not is_remote(index.root):
            self._files = Folder(Path(index.root), index.shards)
            return
        if cache is None:
            raise ValueError(f"{index.root} is no local folder: set data.cache")
        self._files = ShardCache(index.root, index.shards, cache)
        self._ahead = Ahead(self._files, cache.fetchers)

    def __len__(self) -> int:
        return len(self.heights)

    def key(self, row: int) -> str:
        """The name of a row."""
        return str(self.keys[row].as_py())

    def read(self, row: int) -> Sample:
        """The sample of a row.

        Raises ``IndexError`` outside 0 .. n - 1, ``BadSample`` where its bytes are not those that were indexed or
        cannot be decoded, and ``ValueError`` in one sentence where the whole shard is missing, truncated, replaced, or
        cannot be read.
        """
        if not 0 <= row < len(self):
            raise IndexError(row)
        members = self._members(row)
        if self._verify and not self._is_indexed(row, members):
            members = self._members_anew(row)
            if not self._is_indexed(row, members):
                raise self._bad(row, "its bytes are not those that were indexed")
        try:
            return self._sample(row, members)
        except ValueError as error:
            raise self._bad(row, str(error).removeprefix(f"{self.key(row)}: ")) from error

    @property
    def far(self) -> bool:
        """Whether the tars are at an address."""
        return self._ahead is not None

    def fetch_ahead(self, rows: NDArray[np.int64]) -> None:
        """Have the shards of ``rows``, which will be read soon and in this order, fetched in the background.

        Each call takes the place of the one before; no rows at all end what is under way.
        """
        if self._ahead is not None:
            shards, first = np.unique(self.shards[rows], return_index=True)
            self._ahead.want(shards[np.argsort(first)].tolist())

    def _sample(self, row: int, members: dict[str, memoryview]) -> Sample:
        key, label, image = self.key(row), int(self._columns["label"][row]), members["image"]
        return Sample(
            key,
            decode(bytes(image), key) if image else None,
            self._captions(row, members),
            None if label == NO_LABEL else label,
            unpack(members["features"]) if members["features"] else None,
        )

    def _captions(self, row: int, members: dict[str, memoryview]) -> tuple[str, ...]:
        if not self._columns["captions"][row]:
            return ()
        try:
            return captions_of(bytes(members["text"]).decode(), json.loads(bytes(members["json"]) or b"{}"))
        except (ValueError, AttributeError, RecursionError) as error:
            raise ValueError(f"its .txt or .json cannot be read ({error})") from error

    def _members(self, row: int) -> dict[str, memoryview]:
        """The bytes of each member, empty where there is none; one read where they lie together, as they mostly do."""
        spans = {m: (int(self._columns[f"{m}_offset"][row]), int(self._columns[f"{m}_size"][row])) for m in MEMBERS}
        shard, there = int(self.shards[row]), [span for span in spans.values() if span[1]]
        start, stop = min(offset for offset, _ in there), max(offset + size for offset, size in there)
        if stop - start > sum(size for _, size in there) + _GAP:
            return {m: memoryview(read_at(self._files, shard, *span) if span[1] else b"") for m, span in spans.items()}
        data = memoryview(read_at(self._files, shard, start, stop - start))
        return {m: data[offset - start : offset - start + size] if size else data[:0]
                for m, (offset, size) in spans.items()}  # fmt: skip

    def _members_anew(self, row: int) -> dict[str, memoryview]:
        """The same once more: the fault may be in what was cached, or is held open."""
        shard = int(self.shards[row])
        if shard not in self._doubted:  # a shard that holds bad samples is not fetched for each of them
            self._doubted.add(shard)
            self._files.forget(shard)
        return self._members(row)

    def _is_indexed(self, row: int, members: dict[str, memoryview]) -> bool:
        checksum = 0
        for member in MEMBERS:
            checksum = zlib.crc32(members[member], checksum)
        return checksum == self._columns["checksum"][row]

    def _bad(self, row: int, reason: str) -> ValueError:
        """The error for a sample that cannot be used: the whole tar may be another one than was indexed."""
        shard, key = int(self.shards[row]), self.key(row)
        if self._header_fits(row, shard):
            return BadSample(key, reason)
        return ValueError(
            f"{self._files.name(shard)} was replaced or overwritten after it was indexed: {key} is not where it was, "
            f"bring the tar back, or index anew with tools/prepare.py kind=tars"
        )

    def _header_fits(self, row: int, shard: int) -> bool:
        """Whether the tar has a header for a member of the row's key and size where the index says."""
        member = next(member for member in MEMBERS if self._columns[f"{member}_size"][row])
        offset, size = int(self._columns[f"{member}_offset"][row]), self._columns[f"{member}_size"][row]
        try:
            header = TarInfo.frombuf(read_at(self._files, shard, offset - _HEADER, _HEADER), "utf-8", "replace")
        except HeaderError:
            return False
        folder, slash, base = header.name.rpartition("/")
        stem = folder + slash + base.partition(".")[0]
        is_cut = len(header.name.encode()) >= _LONGEST_NAME  # then the whole name stands in another header
        return header.size == size and (is_cut or self.key(row).endswith(stem))

    def __getstate__(self) -> dict[str, Any]:
        return {"opened_as": self._opened_as}  # the index is mapped, and descriptors mean nothing to another process

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._open(*state["opened_as"])
