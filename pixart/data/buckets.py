"""Aspect-ratio buckets: the sizes in pixels that training uses, and which one an image goes to."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Distance = Literal["linear", "log"]
SmallBuckets = Literal["merge", "repeat", "refuse"]


class Bucket(NamedTuple):
    """One size in pixels; every image of a global batch is brought to it."""

    height: int
    width: int

    @property
    def ratio(self) -> float:
        """height / width."""
        return self.height / self.width

    @property
    def key(self) -> float:
        """height / width to two decimals: the name of the bucket in the official tables, and what they condition on."""
        return round(self.ratio, 2)


# (height, width) in units of 64 pixels at 1024: the official ASPECT_RATIO_1024 of PixArt-alpha, ratios 0.25 to 4.
# Its tables for 512 and 256 are exactly a half and a quarter of it. 11 x 21 has no tall twin there.
_OFFICIAL_UNITS = (
    *((8, 32), (8, 31), (8, 30), (8, 29), (9, 28), (9, 27), (9, 26), (10, 25), (10, 24), (11, 23)),
    *((11, 22), (11, 21), (12, 21), (12, 20), (13, 19), (13, 18), (14, 18), (14, 17), (15, 17), (15, 16)),
    *((16, 16), (16, 15), (17, 15), (17, 14), (18, 14), (18, 13), (19, 13), (20, 12), (21, 12), (22, 11)),
    *((23, 11), (24, 10), (25, 10), (26, 9), (27, 9), (28, 9), (29, 8), (30, 8), (31, 8), (32, 8)),
)
_UNITS_PER_SIDE = 16  # of the square bucket
_TRAINING_ONLY = (0.26, 0.27, 2.89, 3.11, 3.62, 3.75, 3.88)  # keys that the official inference table leaves out


def official_buckets(resolution: int) -> tuple[Bucket, ...]:
    """The 40 official sizes around ``resolution`` squared, widest first.

    ``ValueError`` unless ``resolution`` is a multiple of 256: then every side is a multiple of 16 pixels, one token
    of a model with patch size 2 over an autoencoder of stride 8.
    """
    unit, rest = divmod(resolution, _UNITS_PER_SIDE)
    if rest or unit % _UNITS_PER_SIDE or resolution <= 0:
        raise ValueError(f"resolution={resolution} has no official buckets (multiples of 256 have): list sizes instead")
    return tuple(Bucket(height * unit, width * unit) for height, width in _OFFICIAL_UNITS)


def official_bins(resolution: int) -> tuple[Bucket, ...]:
    """The 33 of ``official_buckets`` that the official code and diffusers draw at, widest first."""
    return tuple(bucket for bucket in official_buckets(resolution) if bucket.key not in _TRAINING_ONLY)


def buckets_for(
    resolution: int, choice: Literal["square", "aspect_ratio"] | Sequence[Sequence[int]]
) -> tuple[Bucket, ...]:
    """The buckets of a run: one square of ``resolution``, the official table, or a list of [height, width].

    Raises ``ValueError`` where there is no table, a size is no size, or two sizes share one aspect ratio.
    """
    if choice == "square":
        return (Bucket(resolution, resolution),)
    if choice == "aspect_ratio":
        return official_buckets(resolution)
    sizes = [list(size) for size in choice if not isinstance(size, str)]
    if not sizes:
        raise ValueError(f"buckets={choice!r} is neither square, nor aspect_ratio, nor a list of [height, width]")
    for size in sizes:
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"bucket size {size} is not [height, width] in pixels")
    buckets = tuple(sorted((Bucket(*size) for size in sizes), key=lambda bucket: bucket.ratio))
    _check_distinct(buckets)
    return buckets


def batch_sizes(buckets: Sequence[Bucket], *, global_batch: int, constant_tokens: bool) -> tuple[int, ...]:
    """The global batch of each bucket: the same for all, or as many images as keep the pixels of the largest bucket."""
    if not constant_tokens:
        return (global_batch,) * len(buckets)
    largest = max(bucket.height * bucket.width for bucket in buckets)
    return tuple(global_batch * largest // (bucket.height * bucket.width) for bucket in buckets)


def assign(
    heights: NDArray[np.integer], widths: NDArray[np.integer], *, buckets: Sequence[Bucket], distance: Distance
) -> NDArray[np.int64]:
    """The bucket of each image: the one whose aspect ratio is nearest to height / width.

    ``linear`` measures ``|key - h / w|`` as the official code does, which is finer for tall images than for wide ones;
    ``log`` treats them alike. A tie goes to the wider bucket. ``heights``, ``widths`` (n,) -> (n,) places in
    ``buckets``, which may come in any order.
    """
    _check_distinct(buckets)
    ratios = np.array([bucket.key if distance == "linear" else bucket.ratio for bucket in buckets])
    order = np.argsort(ratios, kind="stable")
    below, above = ratios[order][:-1], ratios[order][1:]
    # Half-way in the logarithm is the geometric mean, which rounds alike on every machine.
    borders = (below + above) / 2 if distance == "linear" else np.sqrt(below * above)
    return order[np.searchsorted(borders, heights / widths)]


def settled(
    counts: NDArray[np.integer], *, buckets: Sequence[Bucket], sizes: Sequence[int], small_buckets: SmallBuckets
) -> NDArray[np.int64]:
    """Which bucket the samples of each bucket go to (m,), once small ones are dealt with as ``small_buckets`` says.

    ``counts`` (m,) and ``sizes`` (m,) are the samples and the global batch of each bucket. One with fewer samples than
    its batch is merged into the bucket of the nearest aspect ratio (``merge``), left as it is (``repeat``), or stops
    the run (``refuse``) with a ``ValueError``, as does a lone one that cannot be merged.
    """
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
                f"{sizes[smallest]}: choose a smaller global_batch, hold out fewer by data.validation_samples, or set "
                "data.small_buckets=repeat"
            )
        nearest = min(others, key=lambda i: _apart(buckets[i], buckets[smallest]))
        left[nearest] += left[smallest]
        left[smallest] = 0
        target[target == smallest] = nearest
    return target


def _apart(one: Bucket, other: Bucket) -> float:
    """How many times the ratio of one is that of the other, at least 1."""
    return max(one.ratio / other.ratio, other.ratio / one.ratio)


def _check_distinct(buckets: Sequence[Bucket]) -> None:
    """Two buckets of one key could not be told apart by an image's aspect ratio."""
    seen: dict[float, Bucket] = {}
    for bucket in buckets:
        other = seen.setdefault(bucket.key, bucket)
        if other is not bucket:
            raise ValueError(f"buckets {tuple(other)} and {tuple(bucket)} have the same aspect ratio: keep one of them")
