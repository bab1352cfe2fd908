"""The rows of all parts sorted by part and bucket, held once: in memory, or in a file that processes share."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pixart.aside import written_aside

_SHA256_WORDS = 4  # of 64 bits; they follow the rows in a file


class Pieces(NamedTuple):
    """What one part has of one bucket, shard by shard, in the order of shards."""

    shards: NDArray[np.int64]  # (p,) numbers of the shards that have any
    starts: NDArray[np.int64]  # (p,) where each begins in the order
    lengths: NDArray[np.int64]  # (p,) how many rows it has, at least one


class Order:
    """The rows (n,) of D parts, sorted by (part, bucket, row), and where each shard is among them."""

    def __init__(
        self,
        rows: Sequence[NDArray[np.int64] | None],
        shards: Sequence[NDArray[np.int32] | None],
        buckets: Sequence[NDArray[np.uint16]],
        *,
        num_buckets: int,
        cache: Path | None,
    ):
        """Of each part its ``rows`` ascending, their ``shards`` and their ``buckets``, all (n_d,).

        ``rows`` None means 0 .. n_d - 1, ``shards`` None a single one. ``cache`` is a folder in which the sorted rows
        are kept, to be mapped into memory by every process that opens the same; where it cannot be written they
        stay in memory.
        """
        self.counts = np.stack([np.bincount(part, minlength=num_buckets) for part in buckets])  # (D, m)
        self._starts = np.concatenate([[0], np.cumsum(self.counts)])
        self._runs = [_runs(mine, names) for mine, names in zip(rows, shards, strict=True)]
        self._path = None if cache is None else cache / f"order-{_digest(rows, buckets)}.npy"
        kept = _mapped(self._path, len(self)) or _kept(self._sorted(rows, buckets), self._path)
        self.rows: NDArray[np.int64] = kept.rows
        self._sha256 = kept.sha256

    def __len__(self) -> int:
        return int(self._starts[-1])

    def start(self, part: int, bucket: int) -> int:
        """Where the rows of one part and bucket begin."""
        return int(self._starts[part * self.counts.shape[1] + bucket])

    def group(self, place: int) -> tuple[int, int]:
        """The first place and the number of the rows that share part and bucket with the one at ``place``."""
        group = int(np.searchsorted(self._starts, place, side="right")) - 1
        start = int(self._starts[group])
        return start, int(self._starts[group + 1]) - start

    def pieces(self, part: int, bucket: int) -> Pieces:
        """The shards of one part that have rows of one bucket."""
        start, count = self.start(part, bucket), int(self.counts[part, bucket])
        names, firsts = self._runs[part]
        bounds = np.searchsorted(self.rows[start : start + count], firsts)  # the rows ascend, and so do the shards
        lengths = np.diff(bounds, append=count)
        some = lengths > 0
        return Pieces(names[some], start + bounds[some], lengths[some])

    def digest(self) -> bytes:
        """sha256 of the rows in their order and of the shards they are in."""
        digest = hashlib.sha256(self._sha256)
        for names, firsts in self._runs:
            digest.update(names.astype("<i8").data)
            digest.update(firsts.astype("<i8").data)
        return digest.digest()

    def _sorted(
        self, rows: Sequence[NDArray[np.int64] | None], buckets: Sequence[NDArray[np.uint16]]
    ) -> NDArray[np.int64]:
        out = np.empty(len(self), dtype=np.int64)
        start = 0
        for mine, part in zip(rows, buckets, strict=True):
            order = np.argsort(part, kind="stable")  # a radix sort, where the numbers have 16 bits
            out[start : start + len(part)] = order if mine is None else mine[order]
            start += len(part)
        return out

    def __getstate__(self) -> dict[str, Any]:
        """For a worker that is not forked: rows that are mapped from a file are mapped again, not copied."""
        state = self.__dict__.copy()
        if isinstance(self.rows.base, np.memmap):
            del state["rows"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if "rows" not in state:
            kept = _mapped(self._path, len(self))
            if kept is None:
                raise ValueError(f"{self._path} has gone or was damaged while the run reads it: keep it until the end")
            self.rows = kept.rows


def _runs(
    rows: NDArray[np.int64] | None, shards: NDArray[np.int32] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The shards of a part, ascending, and the first of its rows in each."""
    if shards is None:
        return np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
    places = np.concatenate([[0], np.flatnonzero(shards[1:] != shards[:-1]) + 1])
    names = shards[places].astype(np.int64)
    assert (np.diff(names) > 0).all(), "the rows of a shard are neighbours"
    return names, places if rows is None else rows[places]


def _digest(rows: Sequence[NDArray[np.int64] | None], buckets: Sequence[NDArray[np.uint16]]) -> str:
    """What the sorted rows depend on, in 128 bits."""
    digest = hashlib.sha256()
    for mine, part in zip(rows, buckets, strict=True):
        digest.update(f"{len(part)} {mine is None};".encode())
        digest.update(part.data)
        if mine is not None:
            digest.update(np.ascontiguousarray(mine, dtype="<i8").data)
    return digest.hexdigest()[:32]


class _Kept(NamedTuple):
    """Sorted rows, and their sha256."""

    rows: NDArray[np.int64]  # (n,)
    sha256: bytes


def _mapped(path: Path | None, count: int) -> _Kept | None:
    """The rows kept in a file, None where there is none or it is not what was written."""
    if path is None:
        return None
    try:
        words = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    if words.shape != (count + _SHA256_WORDS,) or words.dtype != np.int64:
        return None
    kept = _Kept(words[:count].view(np.ndarray), words[count:].tobytes())
    return kept if hashlib.sha256(kept.rows.data).digest() == kept.sha256 else None


def _kept(rows: NDArray[np.int64], path: Path | None) -> _Kept:
    """``rows``, mapped from the file ``path`` where they could be written to it."""
    kept = _Kept(rows, hashlib.sha256(rows.data).digest())
    if path is None:
        return kept
    try:
        with written_aside(path) as aside, aside.open("wb") as file:
            np.save(file, np.concatenate([rows, np.frombuffer(kept.sha256, dtype=np.int64)]))
    except (OSError, ValueError):  # a folder that is full, not ours to write, or lies there instead
        return kept
    return _mapped(path, len(rows)) or kept
