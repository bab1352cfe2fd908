"""The plan: which rows form global batch k, for any k at once, the same in every process.

A bucket is an endless stream of its rows: one keyed permutation of them after another. A step takes the next batch of
one bucket; a batch that spans the end of a permutation may hold a row twice. Which bucket has its turn is a closed form
(see ``Turns``), so nothing is replayed and nothing is stored but the rows sorted by bucket.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pixart.data.buckets import Bucket, Distance, assign
from pixart.data.randomness import RANDOMNESS_VERSION, mixed, permuted

PLAN_VERSION = 1
SmallBuckets = Literal["merge", "repeat", "refuse"]

_ORDER, _TURNS = 1, 2  # what a hash is for
_JITTER_BITS = 20  # visit + jitter stays exact in float64 up to 2**33 visits of one bucket


class PlannedBatch(NamedTuple):
    """The rows of global batch ``k``, all of one bucket."""

    k: int
    bucket: Bucket
    rows: NDArray[np.int64]  # (B_b,) rows of the source


class Part(NamedTuple):
    """One data set of a mixture, as the plan sees it."""

    heights: NDArray[np.integer]  # (n,) pixels, upright
    widths: NDArray[np.integer]  # (n,) pixels, upright
    rows: NDArray[np.int64] | None = None  # (n,) ascending, their rows in the source; None: 0 .. n - 1
    shards: NDArray[np.int32] | None = None  # (n,) the shard of each; None: all in one
    weight: float | None = None  # its share of what is seen; None for all parts: in proportion to their sizes


class BucketReport(NamedTuple):
    """What the plan makes of one bucket."""

    bucket: Bucket
    samples: int
    merged: int  # of these, the samples that came from smaller buckets
    global_batch: int
    batches_per_pass: float  # steps on this bucket while each of its samples is seen once


class PlanReport(NamedTuple):
    """What the plan makes of the data."""

    buckets: tuple[BucketReport, ...]
    samples: int
    steps_per_pass: float  # steps in which each sample of each bucket is seen once


class Turns:
    """Whose turn it is at step k: buckets interleaved in proportion to their batches per pass.

    Visit j of bucket b happens at the time (j + u) / w_b, where w_b is the weight of b and u in [0, 1) a hash of
    (seed, b, j): one visit in every interval of length 1 / w_b, somewhere in it. Step k is the k-th event of all
    buckets in the order of time. Every bucket keeps its share to within a constant at every step, the order is not
    periodic, and the k-th event is found by sorting the few events around the time k / sum(w).
    """

    def __init__(self, weights: NDArray[np.float64], *, names: NDArray[np.uint64], seed: int):
        """``weights`` (m,) positive; ``names`` (m,) distinct numbers of the buckets."""
        self._weights = weights
        self._keys = mixed(seed, _TURNS, names)

    def at(self, k: int) -> tuple[int, int]:
        """The place of the bucket that has its turn at step ``k``, and how many turns it had before."""
        places, visits, first = self._window(k)
        jitter = mixed(self._keys[places], visits) >> np.uint64(64 - _JITTER_BITS)
        times = (visits + jitter / 2**_JITTER_BITS) / self._weights[places]
        event = np.lexsort((visits, places, times))[k - int(first.sum())]
        return int(places[event]), int(visits[event])

    def _window(self, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """All events that may be the k-th (place, visit), and the first visit (m,) of each bucket among them.

        At time s a bucket has had floor(w s) or one visit more, so all m together between W s - m and W s + m.
        """
        weights, spread = self._weights, len(self._weights) + 2
        first = np.floor(weights * (max(0, k - spread) / weights.sum())).astype(np.int64)
        last = np.floor(weights * ((k + spread) / weights.sum())).astype(np.int64) + 2
        lengths = last - first
        places = np.repeat(np.arange(len(weights)), lengths)
        visits = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths - first, lengths)
        return places, visits, first


class Plan:
    """Global batches as a pure function of (seed, k). Every rank and every worker holds an equal one."""

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        buckets: Sequence[Bucket],
        global_batch: int | Sequence[int],
        seed: int,
        small_buckets: SmallBuckets,
        distance: Distance,
        streams: int,
        window: int,
        order_cache: Path | None = None,
    ):
        """Plan over the images of ``parts``.

        ``global_batch`` is one size for all buckets or one for each. A bucket with
        fewer samples than its batch is merged into the bucket of the nearest aspect ratio (``merge``), has some
        samples several times in one batch (``repeat``; no sample is seen more often for it), or stops the run
        (``refuse``). Raises ``ValueError`` for no data, a batch below one, or a bucket that is too small.
        """
        if min(streams, window) < 1:
            raise ValueError(f"streams={streams} and window={window} must both be at least 1")
        self._order_cache = order_cache
        heights, widths, rows, _, _ = parts[0]
        if len(heights) == 0:
            raise ValueError("there is no sample to plan: the data set, or what is left of it for training, is empty")
        sizes = [global_batch] * len(buckets) if isinstance(global_batch, int) else list(global_batch)
        if len(sizes) != len(buckets) or min(sizes) < 1:
            raise ValueError(f"global_batch={global_batch} is not one positive number, nor one for each bucket")
        assigned = assign(heights, widths, buckets=buckets, distance=distance)
        before = np.bincount(assigned, minlength=len(buckets))
        target = _settled(before, buckets=buckets, sizes=sizes, small_buckets=small_buckets)
        assigned = target[assigned]
        counts = np.bincount(assigned, minlength=len(buckets))
        used = np.flatnonzero(counts)
        order = np.argsort(assigned.astype(np.int32), kind="stable")
        self._rows = order if rows is None else rows[order]
        self._ends = np.cumsum(counts[used])
        self._counts = counts[used]
        self._merged = (counts - before)[used]
        self._sizes = np.array(sizes, dtype=np.int64)[used]
        self._names = np.array([b.height << 32 | b.width for b in buckets], dtype=np.uint64)[used]
        self._turns = Turns(self._counts / self._sizes, names=self._names, seed=seed)
        self.buckets: tuple[Bucket, ...] = tuple(buckets[int(i)] for i in used)
        self.seed = seed
        self.fingerprint = self._fingerprint()

    def batch(self, k: int) -> PlannedBatch:
        """The rows of global batch ``k``, at the same cost for every k; ``ValueError`` for a negative k."""
        place, visit = self._turn(k)
        size, count = int(self._sizes[place]), int(self._counts[place])
        passes, within = np.divmod(np.arange(visit * size, (visit + 1) * size), count)
        keys = mixed(self.seed, _ORDER, self._names[place : place + 1], passes)
        start = int(self._ends[place]) - count
        return PlannedBatch(k, self.buckets[place], self._rows[start + permuted(within, count, keys)])

    def global_batch(self, k: int) -> int:
        """How many samples global batch ``k`` has, without looking them up."""
        return int(self._sizes[self._turn(k)[0]])

    def report(self) -> PlanReport:
        """Samples and batches of each bucket in use."""
        columns = zip(self.buckets, self._counts, self._merged, self._sizes, strict=True)
        buckets = tuple(BucketReport(b, int(n), int(m), int(size), float(n / size)) for b, n, m, size in columns)
        return PlanReport(buckets, int(self._counts.sum()), float((self._counts / self._sizes).sum()))

    def _turn(self, k: int) -> tuple[int, int]:
        if k < 0:
            raise ValueError(f"k={k}: global batches are counted from 0")
        return self._turns.at(k)

    def _fingerprint(self) -> str:
        """sha256 of all that defines the plan, the rows of each bucket included."""
        settings = {
            "plan": PLAN_VERSION,
            "randomness": RANDOMNESS_VERSION,
            "seed": self.seed,
            "buckets": self.buckets,
            "counts": self._counts.tolist(),
            "global_batch": self._sizes.tolist(),
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        digest.update(np.ascontiguousarray(self._rows, dtype="<i8").data)
        return digest.hexdigest()


def _settled(
    counts: NDArray[np.integer], *, buckets: Sequence[Bucket], sizes: Sequence[int], small_buckets: SmallBuckets
) -> NDArray[np.int64]:
    """Which bucket the samples of each bucket go to (m,), once small ones are dealt with as ``small_buckets`` says."""
    target = np.arange(len(buckets))
    if small_buckets == "repeat":
        return target
    left = counts.astype(np.int64)
    while small := [i for i, n in enumerate(left) if 0 < n < sizes[i]]:
        smallest = min(small, key=lambda i: left[i])
        others = [i for i, n in enumerate(left) if n and i != smallest]
        if small_buckets == "refuse" or not others:
            height, width = buckets[smallest]
            raise ValueError(
                f"bucket {height}x{width} has {left[smallest]} samples, fewer than its global batch of "
                f"{sizes[smallest]}: choose a smaller global_batch or small_buckets=repeat"
            )
        nearest = min(others, key=lambda i: abs(np.log(buckets[i].ratio / buckets[smallest].ratio)))
        left[nearest] += left[smallest]
        left[smallest] = 0
        target[target == smallest] = nearest
    return target
