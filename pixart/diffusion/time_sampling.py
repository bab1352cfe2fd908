"""How often each time is trained: laws that turn a uniform ``u`` into a time in [0, 1]."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

TimeSampling = Literal["uniform", "logit_normal"]


def _uniform(u: Tensor) -> Tensor:
    return u


def _logit_normal(u: Tensor) -> Tensor:
    """The standard logit-normal law by its inverse distribution function (Esser et al. 2024, 3.1); 0 -> 0, 1 -> 1."""
    return torch.sigmoid(torch.special.ndtri(u))


_LAWS: dict[str, Callable[[Tensor], Tensor]] = {"uniform": _uniform, "logit_normal": _logit_normal}


def time_law(name: TimeSampling) -> Callable[[Tensor], Tensor]:
    """The monotone map of ``u`` (N,) float64 in [0, 1) to a time in [0, 1] that has the named density.

    Monotone, so that a ``u`` stratified over the global batch stays stratified in time.

    Raises:
        ValueError: no law of that name.
    """
    if name not in _LAWS:
        raise ValueError(f"objective.time_sampling: '{name}' is not one of {', '.join(_LAWS)}")
    return _LAWS[name]
