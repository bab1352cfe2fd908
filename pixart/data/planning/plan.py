"""The plan: which rows form global batch k, for any k at once, the same in every process.

Every part of the data has, of every bucket, an endless stream of its rows: one keyed permutation of them after another.
A step takes the next batch of one bucket, of every part its share; where a permutation ends within a batch, a row may
be in it twice. Whose turn it is, what each part gives and which rows these are, are closed forms (``turns``,
``streams``): nothing is replayed, and nothing is stored but the rows sorted by part and bucket (``order``).
"""

import hashlib
import json
from collections.abc import Sequence
from math import fsum
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pixart.data.buckets import Bucket, Distance, SmallBuckets, assign, settled
from pixart.data.planning.order import Order
from pixart.data.planning.report import PlanReport, reported
from pixart.data.planning.streams import Group, Streams
from pixart.data.planning.turns import PERIOD, Shares, Turns
from pixart.data.randomness import RANDOMNESS_VERSION, another, mixed

PLAN_VERSION = 2

_SUBSTITUTE = 6  # what a hash is for
_CHUNK = 1 << 20  # rows that are assigned to buckets at a time, to bound memory


class Part(NamedTuple):
    """One data set of a mixture, as the plan sees it."""

    heights: NDArray[np.integer]  # (n,) pixels, upright
    widths: NDArray[np.integer]  # (n,) pixels, upright
    rows: NDArray[np.int64] | None = None  # (n,) ascending, their rows in the source; None: 0 .. n - 1
    shards: NDArray[np.int32] | None = None  # (n,) ascending, the shard of each; None: all in one
    weight: float | None = None  # its share of what is seen; None for all parts: in proportion to their sizes


class PlannedBatch(NamedTuple):
    """The rows of global batch ``k``, all of one bucket."""

    k: int
    bucket: Bucket
    rows: NDArray[np.int64]  # (B_b,) rows of the source


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
        """Plan over the images of ``parts``, whose rows are those of one source.

        ``global_batch`` is one size for all buckets or one for each. A bucket with fewer samples than its batch is
        merged into the bucket of the nearest aspect ratio (``merge``), has some samples several times in one batch
        (``repeat``; no sample is seen more often for it), or stops the run (``refuse``). ``streams`` and ``window``
        keep reading local, see ``pixart.data.planning.streams``. ``order_cache`` is a folder for the sorted rows, see
        ``Order``. Raises ``ValueError`` for no data, weights that are none, a batch below one, or a bucket that is too
        small.
        """
        sizes = [global_batch] * len(buckets) if isinstance(global_batch, int) else list(global_batch)
        if len(sizes) != len(buckets) or min(sizes) < 1:
            raise ValueError(f"global_batch={global_batch} is not one positive number, nor one for each bucket")
        if min(streams, window) < 1:
            raise ValueError(f"streams={streams} and window={window} must both be at least 1")
        self._pressures = _pressures(parts)
        found = [_assigned(part, buckets=buckets, distance=distance) for part in parts]
        before = np.sum([np.bincount(mine, minlength=len(buckets)) for mine in found], axis=0)  # (m,)
        target = settled(before, buckets=buckets, sizes=sizes, small_buckets=small_buckets).astype(np.uint16)
        self._order = Order(
            [part.rows for part in parts],
            [part.shards for part in parts],
            [target[mine] for mine in found],
            num_buckets=len(buckets),
            cache=order_cache,
        )
        self._used = np.flatnonzero(self._order.counts.sum(axis=0))
        self._counts = self._order.counts[:, self._used]  # (D, u)
        self._merged = self._counts.sum(axis=0) - before[self._used]
        self._sizes = np.array(sizes, dtype=np.int64)[self._used]
        self._names = np.array([b.height << 32 | b.width for b in buckets], dtype=np.uint64)[self._used]
        self._weights = (self._pressures[:, None] * self._counts).sum(axis=0) / self._sizes  # (u,) as turns are
        self._turns = Turns(self._weights, names=self._names, seed=seed)
        self.buckets: tuple[Bucket, ...] = tuple(buckets[int(i)] for i in self._used)
        self.seed = seed
        self._shares, self._groups = self._divided()
        self._streams = Streams(streams=streams, window=window, seed=seed)
        self.fingerprint = self._fingerprint(streams, window)

    def batch(self, k: int) -> PlannedBatch:
        """The rows of global batch ``k``, at the same cost for every k; ``ValueError`` for a negative k.

        They are in the order of streams, so that any contiguous run of them comes from its part of the shards.
        """
        place, places = self._places(k)
        return PlannedBatch(k, self.buckets[place], self._order.rows[places])

    def global_batch(self, k: int) -> int:
        """How many samples global batch ``k`` has, without looking them up."""
        return int(self._sizes[self._turn(k)[0]])

    def substitute(self, k: int, position: int, attempt: int) -> int:
        """The row to read in place of one that cannot be: another of its bucket and part, the only one excepted.

        A pure function of (seed, k, position, attempt); ``attempt`` counts from 1, and no row comes again before all
        others have been tried.
        """
        place = int(self._places(k)[1][position])
        start, count = self._order.group(place)
        key = mixed(self.seed, _SUBSTITUTE, k, position)
        return int(self._order.rows[start + another(place - start, count, attempt, key)])

    def report(self) -> PlanReport:
        """Samples and batches of each bucket in use, and what each part gets."""
        return reported(
            self.buckets,
            counts=self._counts,
            merged=self._merged,
            sizes=self._sizes,
            shares=self._shares,
            weights=self._weights,
            pressures=self._pressures,
        )

    def _turn(self, k: int) -> tuple[int, int]:
        if k < 0:
            raise ValueError(f"k={k}: global batches are counted from 0")
        return self._turns.at(k)

    def _places(self, k: int) -> tuple[int, NDArray[np.int64]]:
        """The bucket of global batch ``k``, and where its rows (B_b,) are in the order of all rows."""
        place, visit = self._turn(k)
        drawn = [self._streams.drawn(group, visit) for group in self._groups[place]]
        by_stream = np.argsort(np.concatenate([one.streams for one in drawn]), kind="stable")
        return place, np.concatenate([one.places for one in drawn])[by_stream]

    def _divided(self) -> tuple[list[Shares], list[list[Group]]]:
        """For each bucket in use how its parts share it, and what each of these parts has of it."""
        shares, groups = [], []
        for place, bucket in enumerate(self._used.tolist()):
            parts = np.flatnonzero(self._counts[:, place]).tolist()
            rates = self._pressures[parts] * self._counts[parts, place]
            shares.append(Shares(rates, size=int(self._sizes[place])))
            names = [mixed(self.seed, self._names[place : place + 1], part) for part in parts]
            groups.append(
                [
                    Group(self._order, part=part, bucket=bucket, name=name, shares=shares[-1], share=i)
                    for i, (part, name) in enumerate(zip(parts, names, strict=True))
                ]
            )
        return shares, groups

    def _fingerprint(self, streams: int, window: int) -> str:
        """sha256 of all that defines the plan, the rows of each bucket included."""
        settings = {
            "plan": [PLAN_VERSION, PERIOD],
            "randomness": RANDOMNESS_VERSION,
            "seed": self.seed,
            "buckets": self.buckets,
            "counts": self._counts.tolist(),
            "pressures": self._pressures.tolist(),
            "global_batch": self._sizes.tolist(),
            "streams": [streams, window],
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        digest.update(self._order.digest())
        return digest.hexdigest()


def _pressures(parts: Sequence[Part]) -> NDArray[np.float64]:
    """How often each part (D,) sees one of its samples, against the average of all samples; 1 without weights."""
    counts = np.array([len(part.heights) for part in parts])
    if not counts.sum():
        raise ValueError("there is no sample to plan: the data set, or what is left of it for training, is empty")
    if not counts.all():
        raise ValueError(f"data set {int(np.argmin(counts))} of the mixture (from 0) has no sample left: take it out")
    if all(part.weight is None for part in parts):
        return np.ones(len(parts))
    weights = np.array([part.weight or 0.0 for part in parts])
    if not (np.isfinite(weights).all() and (weights > 0).all()):
        asked = [part.weight for part in parts]
        raise ValueError(f"the weights of a mixture are all positive numbers, or all left out, but they are {asked}")
    return weights / fsum(weights) * counts.sum() / counts


def _assigned(part: Part, *, buckets: Sequence[Bucket], distance: Distance) -> NDArray[np.uint16]:
    """The bucket of each image of a part (n,)."""
    out = np.empty(len(part.heights), dtype=np.uint16)
    for start in range(0, len(out), _CHUNK):
        some = slice(start, start + _CHUNK)
        out[some] = assign(part.heights[some], part.widths[some], buckets=buckets, distance=distance)
    return out
