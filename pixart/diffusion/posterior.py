"""One step back along a discrete chain when the clean end is known."""

from typing import NamedTuple

import torch
from torch import Tensor


class Posterior(NamedTuple):
    """q(x_{t-1} | x_t, x0), normal with mean ``x0`` * x0 + ``x_t`` * x_t (Ho et al. 2020, eq. 6 and 7); each (T,)."""

    x0: Tensor
    x_t: Tensor
    min_log_variance: Tensor  # its first value replaced by the second because the true one is 0
    max_log_variance: Tensor  # log beta


def posterior(betas: Tensor, alphas_cumprod: Tensor) -> Posterior:
    """The posterior of a chain of T steps; ``betas`` and ``alphas_cumprod`` (T,) float64, T at least two."""
    previous = torch.cat([torch.ones_like(alphas_cumprod[:1]), alphas_cumprod[:-1]])
    variance = betas * (1 - previous) / (1 - alphas_cumprod)
    return Posterior(
        x0=betas * previous.sqrt() / (1 - alphas_cumprod),
        x_t=(1 - betas).sqrt() * (1 - previous) / (1 - alphas_cumprod),
        min_log_variance=torch.cat([variance[1:2], variance[1:]]).log(),
        max_log_variance=betas.log(),
    )
