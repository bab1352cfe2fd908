"""Held-out rows, and the pass over them that is the same at every evaluation."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pixart.data.buckets import Bucket, Distance, assign
from pixart.data.planning.plan import PlannedBatch
from pixart.data.randomness import another, mixed

_SPLIT, _SUBSTITUTE = 7, 8  # what a hash is for
_CHUNK = 1 << 20  # rows


def split_rows(digests: NDArray[np.uint64], *, held_out: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to train on and rows to validate on, both ascending, told apart by a hash of (seed, digest).

    ``digests`` (n,) stand for the keys of the rows. The ``held_out`` rows with the smallest hashes are held out. The
    order of the rows does not matter, and when data are added a row that was trained on is never held out later.
    Raises ``ValueError`` if nothing would be left.
    """
    if held_out and held_out >= len(digests):
        raise ValueError(
            f"data.validation_samples={held_out} leaves none of the {len(digests)} samples to train on: make it smaller"
        )
    smallest, hashes = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint64)
    for start in range(0, len(digests), _CHUNK):  # in memory there are never more hashes than a chunk and those kept
        some = mixed(seed, _SPLIT, digests[start : start + _CHUNK])
        rows, hashes = np.append(smallest, np.arange(start, start + len(some))), np.append(hashes, some)
        kept = np.argpartition(hashes, held_out)[:held_out] if held_out < len(hashes) else np.arange(len(hashes))
        smallest, hashes = rows[kept], hashes[kept]
    left = np.ones(len(digests), dtype=bool)
    left[smallest] = False
    return np.flatnonzero(left), np.sort(smallest)


class Once:
    """Every row exactly once, bucket by bucket: the plan of a validation set.

    Its batches are numbered -1, -2, ... -len: being a function of (seed, k, position), the noise and the timesteps of
    a validation pass are the same every time and none of training's, where k counts from 0. The last batch of a
    bucket may be short.
    """

    def __init__(
        self,
        heights: NDArray[np.integer],
        widths: NDArray[np.integer],
        *,
        buckets: Sequence[Bucket],
        global_batch: int,
        distance: Distance,
        rows: NDArray[np.int64] | None = None,
    ):
        """Over images of ``heights`` and ``widths`` (n,) in pixels, which are the ``rows`` (n,) of a source."""
        assigned = assign(heights, widths, buckets=buckets, distance=distance)
        rows = np.arange(len(assigned)) if rows is None else rows
        used = [i for i in range(len(buckets)) if (assigned == i).any()]
        self._batches = [
            (buckets[i], members[start : start + global_batch])
            for i in used
            for members in [rows[assigned == i]]
            for start in range(0, len(members), global_batch)
        ]
        self.buckets = tuple(buckets[i] for i in used)

    def __len__(self) -> int:
        """The number of batches."""
        return len(self._batches)

    @property
    def ks(self) -> range:
        """The numbers of the batches: -1, -2, ... -len."""
        return range(-1, -len(self) - 1, -1)

    def batch(self, k: int) -> PlannedBatch:
        """Batch ``k``, one of ``ks``."""
        if k not in self.ks:
            raise ValueError(f"k={k}: a pass of {len(self)} batches numbers them from -1 to {-len(self)}")
        return PlannedBatch(k, *self._batches[-1 - k])

    def global_batch(self, k: int) -> int:
        """How many rows batch ``k`` has."""
        return len(self.batch(k).rows)

    def substitute(self, k: int, position: int, attempt: int) -> int:
        """The row to read in place of one that cannot be: another of its bucket, the only one excepted.

        A pure function of (k, position, attempt), which counts from 1.
        """
        bucket, rows = self.batch(k)[1:]
        members = np.concatenate([others for name, others in self._batches if name == bucket])
        place = int(np.flatnonzero(members == rows[position])[0])
        return int(members[another(place, len(members), attempt, mixed(_SUBSTITUTE, k, position))])
