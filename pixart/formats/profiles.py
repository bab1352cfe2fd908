"""Profiles: how much an average over the weights of a run counts each of its steps.

An average a follows the weights w by a(i) = d(i) a(i - 1) + (1 - d(i)) w(i), at updates i = 1, 2, … After t of them it
is the sum over i of p_t(i) w(i), with p_t(i) = (1 - d(i)) d(i + 1) … d(t). All profiles here begin with d(1) = 0 where
they warm up: the first update copies, and the weights before it count nothing.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.float64]

NARROWEST = 1e-3
WIDEST = 12**-0.5  # sigma_rel of the plain mean of all steps, gamma = 0


class Profile(Protocol):
    """What an average keeps of itself at each update."""

    @property
    def name(self) -> str:
        """A word for folders and states, as ``power_0.05``."""

    def kept(self, update: int) -> float:
        """d(i) in [0, 1) of update i = 1, 2, …"""

    def log_kept(self, last: int) -> Column:
        """log(d(2) … d(i)) for i = 1 … ``last``: never above 0, and 0 at i = 1."""

    def described(self) -> dict[str, Any]:
        """The profile in the metadata of a snapshot."""


@dataclass(frozen=True)
class Exponential:
    """d(i) = ``decay``; with ``warmup`` d(i) = min(decay, (i - 1) / (i + 9))."""

    decay: float  # in [0, 1)
    warmup: bool

    @property
    def name(self) -> str:
        return f"decay_{self.decay}"

    def kept(self, update: int) -> float:
        """d(i) of update i = 1, 2, …"""
        return min(self.decay, (update - 1) / (update + 9)) if self.warmup else self.decay

    def log_kept(self, last: int) -> Column:
        """log(d(2) … d(i)) for i = 1 … ``last``."""
        i = np.arange(2, last + 1, dtype=np.float64)
        kept = np.minimum(self.decay, (i - 1) / (i + 9)) if self.warmup else np.full_like(i, self.decay)
        return np.concatenate([[0.0], np.cumsum(np.log(kept))])

    def described(self) -> dict[str, Any]:
        return {"kind": "exponential", "decay": self.decay, "warmup": self.warmup}


@dataclass(frozen=True)
class Power:
    """d(i) = (1 - 1/i)^(gamma + 1), of relative width ``sigma_rel`` (EDM2: arXiv 2312.02696, section 3.1, eq. 2).

    Its weights telescope: p_t(i) = (i^(gamma + 1) - (i - 1)^(gamma + 1)) / t^(gamma + 1), which is the integral over
    (i - 1, i] of the paper's profile (gamma + 1) tau^gamma / t^(gamma + 1).
    """

    sigma_rel: float  # standard deviation of the profile in units of t, from NARROWEST to below WIDEST

    @property
    def name(self) -> str:
        return f"power_{self.sigma_rel}"

    @cached_property
    def gamma(self) -> float:
        return gamma_of(self.sigma_rel)

    def kept(self, update: int) -> float:
        """d(i) of update i = 1, 2, …; 0 of the first."""
        return math.exp((self.gamma + 1) * math.log1p(-1 / update)) if update > 1 else 0.0

    def log_kept(self, last: int) -> Column:
        """log(d(2) … d(i)) for i = 1 … ``last``: -(gamma + 1) log i."""
        return -(self.gamma + 1) * np.log(np.arange(1, last + 1, dtype=np.float64))

    def described(self) -> dict[str, Any]:
        return {"kind": "power", "sigma_rel": self.sigma_rel}


def gamma_of(sigma_rel: float) -> float:
    """The exponent gamma > 0 of a relative width from NARROWEST to below WIDEST: the inverse of ``sigma_of``.

    The root right of zero of gamma^3 + 7 gamma^2 + (16 - s) gamma + 12 - s, where s = sigma_rel^-2. Newton's method
    starts right of it, where the cubic is convex and rises, and so comes down to it without a turn.

    Raises:
        ValueError: the width is no such number.
    """
    if not NARROWEST <= sigma_rel < WIDEST:
        raise ValueError(f"sigma_rel={sigma_rel} is out of range: give a relative width from {NARROWEST} to 0.2886")
    s = sigma_rel**-2
    gamma = math.sqrt(s)
    while True:
        value = ((gamma + 7) * gamma + 16 - s) * gamma + 12 - s
        below = gamma - value / ((3 * gamma + 14) * gamma + 16 - s)
        if below >= gamma:  # rounding has the last word
            return gamma
        gamma = below


def sigma_of(gamma: float) -> float:
    """Relative width of the profile tau^gamma: sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2) (EDM2, eq. 3)."""
    return math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)


def choose(*, sigma_rel: float | None, gamma: float | None, decay: float | None) -> Profile:
    """The profile of the one number that is given; a decay is one with warm-up, since no other forgets the start.

    Raises:
        ValueError: none is given, or several, or the width is out of range.
    """
    if (sigma_rel, gamma, decay).count(None) != 2:
        raise ValueError("give the average that is wanted by one number: sigma_rel=…, gamma=… or decay=…")
    if decay is not None:
        return Exponential(decay, warmup=True)
    width = sigma_of(gamma) if gamma is not None else sigma_rel
    assert width is not None
    gamma_of(width)  # which says so if there is none
    return Power(width)
