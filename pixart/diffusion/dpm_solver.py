"""DPM-Solver++ on the time grid of the official sampler (Lu et al. 2022, algorithm 2)."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pixart.diffusion.gaussian import Gaussian, prediction_maps
from pixart.diffusion.schedulers import LAMBDA_MIN

FEW_STEPS = 10  # with fewer the last one is of order one


class OfficialDPMSolver:
    """The multistep solver of order two on clean predictions, over times with fractions.

    Continuous time runs evenly from 1 to 1 / T; the model is told T times it less one, and log alpha is a straight
    line between the entries of the table. The first step is of order one; the last one ends at the first entry of the
    table and leaves that little noise in.

    Args:
        objective: says alpha-bar and what is predicted.
    """

    takes_variance = False
    draws_noise = False
    guides = True

    def __init__(self, objective: Gaussian) -> None:
        self.prediction = objective.prediction
        self.log_alpha = objective.alphas_cumprod.log().numpy() / 2  # (T,)
        self.num_timesteps = objective.num_timesteps
        self.steps = (1, objective.num_timesteps - 1)

    def set_timesteps(self, num_inference_steps: int) -> Tensor:
        """Starts again; the times that the model is told, (num_inference_steps,) float32 on the CPU."""
        latest = np.flatnonzero(_log_snr(self.log_alpha) >= LAMBDA_MIN)[-1]
        times = np.linspace(latest, 0, num_inference_steps + 1)
        log_alpha = np.interp(times, np.arange(len(self.log_alpha)), self.log_alpha)
        self._lambda = _log_snr(log_alpha)
        self._signal_rate, self._noise_rate = np.exp(log_alpha), np.sqrt(-np.expm1(2 * log_alpha))
        self._maps = prediction_maps(
            self.prediction, torch.from_numpy(self._signal_rate), torch.from_numpy(self._noise_rate)
        )
        self._done, self._last_clean = 0, torch.empty(0)
        return torch.from_numpy(times[:-1]).float()

    def step(self, output: Tensor, latents: Tensor, generators: Sequence[torch.Generator] | None) -> Tensor:
        """``output`` and ``latents`` (N, C, H, W) at one time -> latents at the next."""
        del generators  # nothing here is random
        now, after = self._done, self._done + 1
        clean_x_t, clean_output = (self._maps[name][now].item() for name in ("clean_x_t", "clean_output"))
        clean = clean_x_t * latents + clean_output * output
        width = self._lambda[after] - self._lambda[now]
        ahead = clean if self._is_first_order() else clean + 0.5 * self._slope(clean) * width
        kept = float(self._noise_rate[after] / self._noise_rate[now])
        self._done, self._last_clean = after, clean
        return kept * latents - float(self._signal_rate[after] * math.expm1(-width)) * ahead

    def _is_first_order(self) -> bool:
        total = len(self._lambda) - 1
        return self._done == 0 or (total < FEW_STEPS and self._done == total - 1)

    def _slope(self, clean: Tensor) -> Tensor:
        """Change of the clean prediction over the last step, per unit of log signal-to-noise ratio."""
        return (clean - self._last_clean) / float(self._lambda[self._done] - self._lambda[self._done - 1])


def _log_snr(log_alpha: np.ndarray) -> np.ndarray:
    """lambda = log(alpha / sigma)."""
    return log_alpha - np.log(-np.expm1(2 * log_alpha)) / 2
