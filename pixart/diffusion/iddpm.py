"""Ancestral sampling along a shortened chain with the variance that the model learned (Nichol & Dhariwal 2021)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pixart.diffusion.gaussian import Gaussian, prediction_maps
from pixart.diffusion.posterior import posterior


class ImprovedDDPM:
    """Evenly respaced timesteps, both ends included, with betas derived anew from the alpha-bars that are kept.

    Nothing is clipped, and the last step adds no noise.

    Args:
        objective: with a learned variance.

    Raises:
        ValueError: an objective without one.
    """

    takes_variance = True
    draws_noise = True
    guides = True

    def __init__(self, objective: Gaussian) -> None:
        if not objective.learned_variance:
            raise ValueError(
                "scheduler: 'iddpm' needs a model that learned its variance (objective.learned_variance=true); "
                "'ddpm' has a fixed one"
            )
        self.prediction = objective.prediction
        self.alphas_cumprod = objective.alphas_cumprod  # (T,) float64
        self.num_timesteps = objective.num_timesteps
        self.steps = (2, objective.num_timesteps)

    def set_timesteps(self, num_inference_steps: int) -> Tensor:
        """Starts again; the timesteps that the model is told, (num_inference_steps,) int64 on the CPU."""
        stride = (len(self.alphas_cumprod) - 1) / (num_inference_steps - 1)
        kept = torch.tensor([round(k * stride) for k in range(num_inference_steps)])
        alpha_bar = self.alphas_cumprod[kept]
        betas = 1 - alpha_bar / torch.cat([torch.ones_like(alpha_bar[:1]), alpha_bar[:-1]])
        self._posterior = posterior(betas, alpha_bar)
        self._maps = prediction_maps(self.prediction, alpha_bar.sqrt(), (1 - alpha_bar).sqrt())
        self._left = num_inference_steps
        return kept.flip(0)

    def step(self, output: Tensor, latents: Tensor, generators: Sequence[torch.Generator] | None) -> Tensor:
        """``output`` (N, 2C, H, W), variance behind the prediction, and ``latents`` (N, C, H, W) -> latents."""
        assert generators is not None
        self._left -= 1
        prediction, variance = output.chunk(2, dim=1)  # (N, C, H, W) each
        clean_x_t, clean_output = (self._maps[name][self._left].item() for name in ("clean_x_t", "clean_output"))
        of_clean, of_latents, low, high = (table[self._left].item() for table in self._posterior)
        mean = of_clean * (clean_x_t * latents + clean_output * prediction) + of_latents * latents
        if self._left == 0:
            return mean
        frac = (variance + 1) / 2
        noise = torch.stack([torch.randn(latents.shape[1:], generator=generator) for generator in generators])
        return mean + torch.exp(0.5 * (frac * high + (1 - frac) * low)) * noise.to(latents.device)
