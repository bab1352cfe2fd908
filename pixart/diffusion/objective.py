"""What every objective offers, so that the loop, the model and the sampler need not know which one they use."""

from typing import Any, NamedTuple, Protocol

from torch import Tensor


class Losses(NamedTuple):
    """One value per example, float32; ``loss`` is what is differentiated, the others are what is reported."""

    loss: Tensor  # (N,) weight * mse + vlb
    mse: Tensor  # (N,) unweighted mean squared error over C, H, W
    vlb: Tensor  # (N,) variance bound in bits per dimension, zero without learned variance


class Objective(Protocol):
    """The meeting point of training (``timesteps``, ``add_noise``, ``losses``) and sampling (``scheduler_config``)."""

    learned_variance: bool

    def out_channels(self, latent_channels: int) -> int:
        """Channels that the model must give for latents of ``latent_channels``."""

    def timesteps(self, u: Tensor) -> Tensor:
        """``u`` (N,) float64 in [0, 1) -> ``t`` (N,) as the model is told it: larger is noisier."""

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """``x0``, ``noise`` (N, C, H, W) and ``t`` (N,) -> ``x_t`` (N, C, H, W) float32."""

    def losses(self, output: Tensor, *, x0: Tensor, noise: Tensor, x_t: Tensor, t: Tensor) -> Losses:
        """``output`` (N, C or 2C, H, W) of the model at ``x_t``, ``t`` -> three (N,) in float32."""

    def scheduler_config(self) -> dict[str, Any]:
        """Keyword arguments, by diffusers' names, that make a diffusers scheduler walk the same path."""
