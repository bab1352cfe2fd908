"""Held-out rows, and the pass over them that is the same at every evaluation."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from pixart.data.buckets import Bucket, Distance, assign
from pixart.data.plan import PlannedBatch


def split_rows(keys: Iterable[str], *, held_out: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to train on and rows to validate on, both ascending, told apart by a hash of their keys.

    The ``held_out`` keys with the smallest hashes are held out. The order of the rows does not matter, and when data
    are added a row that was trained on is never held out later. Raises ``ValueError`` if nothing would be left.
    """
    prefix = f"{seed}:".encode()
    hashes = np.array(
        [int.from_bytes(hashlib.sha256(prefix + key.encode()).digest()[:8], "big") for key in keys], dtype=np.uint64
    )
    if held_out and held_out >= len(hashes):
        raise ValueError(
            f"data.validation_samples={held_out} leaves none of the {len(hashes)} samples to train on: make it smaller"
        )
    order = np.argsort(hashes, kind="stable")
    return np.sort(order[held_out:]), np.sort(order[:held_out])


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
