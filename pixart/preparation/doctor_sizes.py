"""What the buckets do to the images: how much is cropped away, how much is scaled up, which buckets are too small."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pixart.data.buckets import Bucket, Distance, SmallBuckets, assign, settled

# Edges of the bars that are drawn: shares of an image's pixels, and factors by which its sides are scaled.
CUT_EDGES = (0.0, 0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 1.0)
FACTOR_EDGES = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 4.0, np.inf)
_PIECE = 1 << 18  # images counted at a time


class BucketSizes(NamedTuple):
    """The images of one bucket on their way to its size. Means count a sample as often as training sees it."""

    bucket: Bucket
    samples: int
    cut: float  # mean share of an image's pixels that the centre crop takes away
    cut_most: float  # of any image
    enlarged: float  # share of the images that are scaled up
    factor_most: float  # the largest factor by which a side is multiplied


class SmallBucket(NamedTuple):
    """A bucket with fewer samples than its batch, and what becomes of it."""

    bucket: Bucket
    samples: int
    global_batch: int
    fate: str


class Sizes(NamedTuple):
    """All images against all buckets."""

    buckets: tuple[BucketSizes, ...]  # those with samples, in the order of the table
    small: tuple[SmallBucket, ...]
    empty: int  # buckets of the table that no image is nearest to
    cut: float  # mean over all samples, as training sees them
    enlarged: float
    cut_bars: tuple[float, ...]  # share of the samples between each two of CUT_EDGES
    factor_bars: tuple[float, ...]  # and of FACTOR_EDGES


class Sized(NamedTuple):
    """One data set of a mixture: (n,) heights and widths in pixels, and its share of what is seen, in any unit."""

    heights: NDArray[np.integer]
    widths: NDArray[np.integer]
    share: float


def examine_sizes(
    parts: Sequence[Sized],
    *,
    buckets: Sequence[Bucket],
    global_batches: Sequence[int],
    small_buckets: SmallBuckets,
    distance: Distance,
) -> Sizes:
    """What happens to the images of ``parts``; ``global_batches`` has one for each bucket.

    Where ``small_buckets`` refuses, the sizes are those of the buckets as they are.
    """
    counts = np.zeros(len(buckets), np.int64)
    for piece in _pieces(parts):
        place = assign(piece.heights, piece.widths, buckets=buckets, distance=distance)
        counts += np.bincount(place, minlength=len(buckets))
    target, refused = np.arange(len(buckets)), False
    try:
        target = settled(counts, buckets=buckets, sizes=global_batches, small_buckets=small_buckets)
    except ValueError:  # the plan says the same, and there it is a problem
        refused = True
    tally = _Tally(buckets)
    for piece in _pieces(parts):
        tally.add(piece, target[assign(piece.heights, piece.widths, buckets=buckets, distance=distance)])
    return tally.sizes(_small(counts, target, buckets, global_batches, refused=refused), int((counts == 0).sum()))


def _pieces(parts: Sequence[Sized]) -> Iterator[Sized]:
    """The images of all parts, not too many at a time."""
    for part in parts:
        for start in range(0, len(part.heights), _PIECE):
            piece = slice(start, start + _PIECE)
            share = part.share * len(part.heights[piece]) / len(part.heights)
            yield Sized(part.heights[piece], part.widths[piece], share)


class _Tally:
    """Sums over images, bucket by bucket; ``weight`` is how often training sees them, relative to all."""

    def __init__(self, buckets: Sequence[Bucket]):
        count = len(buckets)
        self._buckets = buckets
        self._sides = np.array(buckets, dtype=np.float64)  # (m, 2)
        self._samples = np.zeros(count, np.int64)
        self._weight, self._cut, self._cut_most, self._enlarged, self._factor_most = np.zeros((5, count))
        self._cut_bars, self._factor_bars = np.zeros(len(CUT_EDGES) - 1), np.zeros(len(FACTOR_EDGES) - 1)

    def add(self, piece: Sized, place: NDArray[np.int64]) -> None:
        """Count the images of ``piece`` in the buckets ``place`` (n,): each is scaled until it just covers its own."""
        down = self._sides[place, 0] / piece.heights
        across = self._sides[place, 1] / piece.widths
        factor = np.maximum(down, across)
        cut = 1 - np.minimum(down, across) / factor
        counts, weight = np.bincount(place, minlength=len(self._samples)), piece.share / len(place)
        self._samples += counts
        self._weight += counts * weight
        self._cut += np.bincount(place, cut, len(self._cut)) * weight
        self._enlarged += np.bincount(place[factor > 1], minlength=len(self._enlarged)) * weight
        np.maximum.at(self._cut_most, place, cut)
        np.maximum.at(self._factor_most, place, factor)
        self._cut_bars += _bars(cut, CUT_EDGES) * weight
        self._factor_bars += _bars(factor, FACTOR_EDGES) * weight

    def sizes(self, small: tuple[SmallBucket, ...], empty: int) -> Sizes:
        """The sums as means and shares."""
        total = self._weight.sum()
        buckets = tuple(
            BucketSizes(
                bucket=self._buckets[i],
                samples=int(self._samples[i]),
                cut=float(self._cut[i] / self._weight[i]),
                cut_most=float(self._cut_most[i]),
                enlarged=float(self._enlarged[i] / self._weight[i]),
                factor_most=float(self._factor_most[i]),
            )
            for i in np.flatnonzero(self._samples).tolist()
        )
        return Sizes(
            buckets=buckets,
            small=small,
            empty=empty,
            cut=float(self._cut.sum() / total),
            enlarged=float(self._enlarged.sum() / total),
            cut_bars=tuple((self._cut_bars / total).tolist()),
            factor_bars=tuple((self._factor_bars / total).tolist()),
        )


def _bars(values: NDArray[np.float64], edges: Sequence[float]) -> NDArray[np.int64]:
    """How many values lie between each two edges; one on an edge counts to its left, and 0 to the first bar."""
    return np.bincount(np.searchsorted(edges[1:-1], values), minlength=len(edges) - 1)


def _small(
    counts: NDArray[np.int64],
    target: NDArray[np.int64],
    buckets: Sequence[Bucket],
    global_batches: Sequence[int],
    *,
    refused: bool,
) -> tuple[SmallBucket, ...]:
    def fate(i: int) -> str:
        if refused:
            return "stops the run"
        if target[i] != i:
            return "goes to {}x{}".format(*buckets[int(target[i])])
        if counts[target == i].sum() >= global_batches[i]:
            return "is filled from smaller ones"
        return f"each sample up to {-(-global_batches[i] // int(counts[i]))} times in a batch"

    return tuple(
        SmallBucket(buckets[i], int(n), global_batches[i], fate(i))
        for i, n in enumerate(counts)
        if 0 < n < global_batches[i]
    )
