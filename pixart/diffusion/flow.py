"""Flow matching along straight lines from clean to noise (Lipman et al. 2023; Esser et al. 2024)."""

from typing import Any

import torch
from torch import Tensor

from pixart.diffusion.objective import Losses
from pixart.diffusion.time_sampling import TimeSampling, time_law

TIME_SCALE = 1000  # the model is told 1000 * s, so that its sinusoids see the range they see in the discrete form
MIN_TIME = 1e-5  # s lies in (0, 1]: at 0 there is nothing to remove


class Flow:
    """x_t = (1 - s) x0 + s noise; the model gives the velocity noise - x0.

    Args:
        shift: moves times towards noise, s -> shift s / (1 + (shift - 1) s), for larger pictures
            (Esser et al. 2024, eq. 23); 1 leaves them.
        time_sampling: how often each time is trained, before the shift.

    Raises:
        ValueError: a shift that is not positive, or no law of that name.
    """

    learned_variance = False

    def __init__(self, *, shift: float, time_sampling: TimeSampling) -> None:
        if shift <= 0:
            raise ValueError(f"objective.shift: {shift} must be positive")
        self.shift = shift
        self._time_law = time_law(time_sampling)

    def out_channels(self, latent_channels: int) -> int:
        """C: no variance is learned."""
        return latent_channels

    def timesteps(self, u: Tensor) -> Tensor:
        """``u`` (N,) float64 in [0, 1) -> t = 1000 s, (N,) float32 in (0, 1000]."""
        s = self._time_law(u.double()).clamp(min=MIN_TIME, max=1)
        return (TIME_SCALE * self.shift * s / (1 + (self.shift - 1) * s)).float()

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The point at s = t / 1000 of the line from ``x0`` to ``noise``, (N, C, H, W) float32."""
        s = (t.float() / TIME_SCALE).view(-1, 1, 1, 1)
        return (1 - s) * x0.float() + s * noise.float()

    def losses(self, output: Tensor, *, x0: Tensor, noise: Tensor, x_t: Tensor, t: Tensor) -> Losses:
        """Mean squared error of the velocity; ``output``, ``x0``, ``noise`` (N, C, H, W).

        Raises:
            ValueError: an output that has not the channels of ``x0``.
        """
        del x_t, t  # the target is the same all along the line
        if output.shape[1] != x0.shape[1]:
            raise ValueError(
                f"the model gives {output.shape[1]} channels where flow matching needs {x0.shape[1]}; "
                f"set model.out_channels to that"
            )
        mse = (noise.float() - x0.float() - output.float()).square().mean(dim=(1, 2, 3))  # (N,)
        return Losses(loss=mse, mse=mse, vlb=torch.zeros_like(mse))

    def scheduler_config(self) -> dict[str, Any]:
        """The same line and shift by diffusers' names."""
        return {
            "num_train_timesteps": TIME_SCALE,
            "use_flow_sigmas": True,
            "flow_shift": self.shift,
            "prediction_type": "flow_prediction",
        }
