"""One profile as a weighted sum of others (EDM2: arXiv 2312.02696, section 3.2 and appendix C).

The paper takes inner products of continuous profiles. Here the sums over whole steps are taken, which are what was
tracked, and no inner products, whose matrix has the square of the condition. Between two steps with snapshots every
stored profile of one kind has the same shape, whatever its end: a stretch of any length is as many rows as kinds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pixart.formats.profiles import Column, Profile


class Tracked(NamedTuple):
    """An average that was kept: its profile, and how many updates it had seen."""

    profile: Profile
    step: int


class Fit(NamedTuple):
    """The best sum of stored averages."""

    coefficients: Column  # (N,), of sum 1
    error: float  # norm of what the profile misses, over all steps, in units of the norm of the wanted one


def fit(wanted: Profile, stored: Sequence[Tracked]) -> Fit:
    """The sum of the N ``stored`` averages that is nearest to ``wanted`` at the last of their steps.

    Least squares over the steps in float64. The coefficients sum to 1, as profiles do: weights that never change stay
    what they are.
    """
    rows, target = _reduced(wanted, stored)  # (R, N), (R,)
    scale = float(np.linalg.norm(target))
    last = rows[:, -1]
    others = np.linalg.lstsq((rows[:, :-1] - last[:, None]) / scale, (target - last) / scale, rcond=None)[0]
    coefficients = np.append(others, 1 - others.sum())
    return Fit(coefficients, float(np.linalg.norm(rows @ coefficients - target)) / scale)


def _reduced(wanted: Profile, stored: Sequence[Tracked]) -> tuple[NDArray[np.float64], Column]:
    """Matrix (R, N) and target (R,) with the distances of the full ones of a row each step."""
    kinds = list(dict.fromkeys([*(profile for profile, _ in stored), wanted]))
    ends = sorted({step for _, step in stored})
    kept = {kind: kind.log_kept(ends[-1]) for kind in kinds}

    def faded(kind: Profile, end: int, step: int) -> float:
        """What is left at ``step`` of all that counted until ``end``."""
        return float(np.exp(kept[kind][step - 1] - kept[kind][end - 1]))

    rows, target = [], []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        shapes = np.stack([_counted(kept[kind], start, end) for kind in kinds], axis=1)  # (end - start, kinds)
        corner = dict(zip(kinds, np.asarray(np.linalg.qr(shapes, mode="r")).T, strict=True))  # each (at most kinds,)
        nothing = np.zeros_like(corner[wanted])
        columns = [corner[kind] * faded(kind, end, step) if step >= end else nothing for kind, step in stored]
        rows.append(np.stack(columns, axis=1))
        target.append(corner[wanted] * faded(wanted, end, ends[-1]))
    return np.concatenate(rows), np.concatenate(target)


def _counted(log_kept: Column, start: int, end: int) -> Column:
    """p_end(i) for i = start + 1 … end, (end - start,)."""
    kept = np.exp(log_kept[end - 1] - log_kept[max(start - 1, 0) : end])  # d(i + 1) … d(end)
    return np.diff(kept, prepend=0.0) if start == 0 else np.diff(kept)
