"""Loss weights per timestep, said once in the space of clean images and carried over to what is predicted.

One squared error in three currencies, with SNR = signal^2 / noise^2 and signal^2 + noise^2 = 1 (Salimans & Ho 2022):
|x0 - x0'|^2 = |eps - eps'|^2 / SNR = |v - v'|^2 / (SNR + 1).
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Prediction = Literal["eps", "velocity", "x0"]
Weighting = Literal["none", "min_snr", "soft_min_snr", "truncated_snr", "p2"]

# Each takes snr (T,) and gamma and gives the weight of |x0 - x0'|^2, (T,).
_CLEAN_WEIGHTS: dict[str, Callable[[Tensor, float], Tensor]] = {
    # Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy", section 3.4
    "min_snr": lambda snr, gamma: snr.clamp(max=gamma),
    # Crowson et al. 2024, "Hourglass Diffusion Transformers", section on soft-min-SNR: half the harmonic mean
    "soft_min_snr": lambda snr, gamma: snr * gamma / (snr + gamma),
    # Salimans & Ho 2022, "Progressive Distillation", section 4: max(SNR, 1); gamma moves the one
    "truncated_snr": lambda snr, gamma: snr.clamp(min=gamma),
    # Choi et al. 2022, "Perception Prioritized Training", eq. 8 with k = 1, on top of the simple noise loss
    "p2": lambda snr, gamma: snr / (1 + snr) ** gamma,
}

_CLEAN_PER_PREDICTED: dict[str, Callable[[Tensor], Tensor]] = {
    "eps": lambda snr: 1 / snr,
    "velocity": lambda snr: 1 / (snr + 1),
    "x0": torch.ones_like,
}


def loss_weights(snr: Tensor, *, weighting: Weighting, gamma: float, prediction: Prediction) -> Tensor:
    """Weights (T,) of the mean squared error of ``prediction`` at signal-to-noise ratios ``snr`` (T,).

    ``none`` is a plain one for whatever is predicted; every other weighting means the same for all three predictions.

    Raises:
        ValueError: no weighting of that name, or a gamma that is not positive.
    """
    if weighting == "none":
        return torch.ones_like(snr)
    if weighting not in _CLEAN_WEIGHTS:
        raise ValueError(f"objective.weighting: '{weighting}' is not one of none, {', '.join(_CLEAN_WEIGHTS)}")
    if gamma <= 0:
        raise ValueError(f"objective.weighting_gamma: {gamma} must be positive for weighting '{weighting}'")
    return _CLEAN_WEIGHTS[weighting](snr, gamma) * _CLEAN_PER_PREDICTED[prediction](snr)
