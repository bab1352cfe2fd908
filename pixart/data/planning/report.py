"""What the plan makes of the data, in numbers."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pixart.data.buckets import Bucket
from pixart.data.planning.turns import PERIOD, Shares


class BucketReport(NamedTuple):
    """What the plan makes of one bucket."""

    bucket: Bucket
    samples: int
    merged: int  # of these, the samples that came from smaller buckets
    global_batch: int
    batches_per_pass: float  # steps on this bucket until each of its samples has been seen once
    share_of_steps: float


class PartReport(NamedTuple):
    """What the plan makes of one part."""

    samples: int
    asked: float  # its share of all samples seen, as configured
    got: float  # and as it is, in batches of whole samples
    steps_per_pass: float  # steps until each of its samples has been seen once


class PlanReport(NamedTuple):
    """What the plan makes of the data."""

    buckets: tuple[BucketReport, ...]
    samples: int
    steps_per_pass: float  # steps until each sample of every part has been seen once
    parts: tuple[PartReport, ...]


def reported(
    buckets: Sequence[Bucket],
    *,
    counts: NDArray[np.integer],
    merged: NDArray[np.integer],
    sizes: NDArray[np.int64],
    shares: Sequence[Shares],
    weights: NDArray[np.float64],
    pressures: NDArray[np.float64],
) -> PlanReport:
    """The report over D parts and m buckets.

    ``counts`` (D, m) samples; ``merged``, ``sizes``, ``shares`` and ``weights`` (m,) of the buckets: samples of smaller
    ones, global batch, what each part gives, turns in any unit. ``pressures`` (D,) are visits of a sample of each part
    against the average of all.
    """
    steps = float(weights.sum())  # until the average sample has been seen once
    given = np.zeros(counts.shape)  # samples that each part gives to a visit
    for place, share in enumerate(shares):
        given[counts[:, place] > 0, place] = share.per_period / PERIOD
    visits = np.divide(counts, given, out=np.zeros_like(given), where=given > 0).max(axis=0)
    got = given @ weights / (sizes @ weights)
    asked = pressures * counts.sum(axis=1) / counts.sum()
    columns = zip(buckets, counts.sum(axis=0), merged, sizes, visits, weights / steps, strict=True)
    parts = zip(counts.sum(axis=1), asked, got, steps / pressures, strict=True)
    return PlanReport(
        buckets=tuple(BucketReport(b, int(n), int(m), int(B), float(v), float(w)) for b, n, m, B, v, w in columns),
        samples=int(counts.sum()),
        steps_per_pass=float(steps / pressures.min()),
        parts=tuple(PartReport(int(n), float(a), float(g), float(s)) for n, a, g, s in parts),
    )
