"""Improved DDPM: discrete Gaussian diffusion with a learned-range variance (Ho et al. 2020; Nichol & Dhariwal 2021)."""

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pixart.diffusion.bound import discretised_normal_nll, normal_kl
from pixart.diffusion.objective import Losses
from pixart.diffusion.posterior import posterior
from pixart.diffusion.time_sampling import TimeSampling, time_law
from pixart.diffusion.weighting import Prediction, Weighting, loss_weights

Schedule = Literal["linear", "cosine"]

BETA_START, BETA_END = 1e-4, 0.02  # of the linear schedule at 1000 steps
COSINE_OFFSET, COSINE_MAX_BETA = 0.008, 0.999  # Nichol & Dhariwal 2021, eq. 17

_DIFFUSERS_PREDICTION = {"eps": "epsilon", "velocity": "v_prediction", "x0": "sample"}
_DIFFUSERS_SCHEDULE = {"linear": "linear", "cosine": "squaredcos_cap_v2"}


class _Tables(NamedTuple):
    """Everything that depends on the timestep alone, each (T,)."""

    signal_rate: Tensor  # sqrt(alpha-bar)
    noise_rate: Tensor  # sqrt(1 - alpha-bar)
    target_x0: Tensor  # target = target_x0 * x0 + target_noise * noise
    target_noise: Tensor
    clean_x_t: Tensor  # x0 prediction = clean_x_t * x_t + clean_output * output
    clean_output: Tensor
    posterior_x0: Tensor  # of ``Posterior``, like the next two
    min_log_variance: Tensor
    max_log_variance: Tensor
    weight: Tensor  # of the squared error


def _betas(schedule: Schedule, num_timesteps: int) -> Tensor:
    """(T,) float64; the linear one keeps its total noise when T is not 1000."""
    if schedule == "linear":
        scale = 1000 / num_timesteps
        return torch.linspace(scale * BETA_START, scale * BETA_END, num_timesteps, dtype=torch.float64)
    if schedule == "cosine":
        edges = torch.arange(num_timesteps + 1, dtype=torch.float64) / num_timesteps
        alpha_bar = torch.cos((edges + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2
        return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=COSINE_MAX_BETA)
    raise ValueError(f"objective.schedule: '{schedule}' is not one of linear, cosine")


def prediction_maps(prediction: Prediction, signal_rate: Tensor, noise_rate: Tensor) -> dict[str, Tensor]:
    """What is predicted as a linear map of (x0, noise), and x0 as one of (x_t, output).

    ``signal_rate`` and ``noise_rate`` (T,) are those of any T times; each value is (T,), named as in the tables.
    """
    one, zero = torch.ones_like(signal_rate), torch.zeros_like(signal_rate)
    names = ("target_x0", "target_noise", "clean_x_t", "clean_output")
    maps = {
        "eps": (zero, one, 1 / signal_rate, -noise_rate / signal_rate),
        "x0": (one, zero, zero, one),
        "velocity": (-noise_rate, signal_rate, signal_rate, -noise_rate),  # Salimans & Ho 2022, appendix D
    }
    if prediction not in maps:
        raise ValueError(f"objective.prediction: '{prediction}' is not one of {', '.join(maps)}")
    return dict(zip(names, maps[prediction], strict=True))


def _at(table: Tensor, t: Tensor) -> Tensor:
    return table[t].view(-1, 1, 1, 1)


class Gaussian:
    """The paper's objective with ``linear``, ``eps``, learned variance and no weighting; its kin by configuration.

    Args:
        num_timesteps: T; the model is told t in 0 .. T-1 as int64.
        schedule: of beta, ``linear`` or ``cosine``.
        prediction: what the model gives: ``eps`` (the noise), ``velocity`` or ``x0``.
        learned_variance: whether the model gives C more channels v, log-variance = frac * log beta +
            (1 - frac) * log of the posterior's variance, frac = (v + 1) / 2 (Nichol & Dhariwal 2021, eq. 15).
        weighting: of the squared error over time, see ``loss_weights``; the bound has always weight one.
        weighting_gamma: the number that the weighting takes.
        time_sampling: how often each time is trained.

    Raises:
        ValueError: a name that is none of these, or so few timesteps that a beta reaches one.
    """

    def __init__(
        self,
        *,
        num_timesteps: int,
        schedule: Schedule,
        prediction: Prediction,
        learned_variance: bool,
        weighting: Weighting,
        weighting_gamma: float,
        time_sampling: TimeSampling,
    ) -> None:
        if num_timesteps <= 1000 * BETA_END:
            raise ValueError(f"objective.num_timesteps: {num_timesteps} must be above {1000 * BETA_END:.0f}")
        self.num_timesteps = num_timesteps
        self.schedule = schedule
        self.prediction = prediction
        self.learned_variance = learned_variance
        self._time_law = time_law(time_sampling)
        self.betas = _betas(schedule, num_timesteps)  # (T,) float64
        self.alphas_cumprod = (1 - self.betas).cumprod(0)  # (T,) float64
        self._tables = self._make_tables(weighting, weighting_gamma)
        self._tables_on: dict[torch.device, _Tables] = {}

    def out_channels(self, latent_channels: int) -> int:
        """C, or 2C where the variance is learned."""
        return 2 * latent_channels if self.learned_variance else latent_channels

    def timesteps(self, u: Tensor) -> Tensor:
        """``u`` (N,) float64 in [0, 1) -> (N,) int64 in 0 .. T-1."""
        t = (self._time_law(u.double()) * self.num_timesteps).floor().long()
        # A u just below 1 is 1 once it has been through float32, and T is no timestep.
        return t.clamp(max=self.num_timesteps - 1)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = sqrt(alpha-bar) x0 + sqrt(1 - alpha-bar) noise, (N, C, H, W) float32 (Ho et al. 2020, eq. 4)."""
        tables = self._on(t.device)
        return _at(tables.signal_rate, t) * x0.float() + _at(tables.noise_rate, t) * noise.float()

    def losses(self, output: Tensor, *, x0: Tensor, noise: Tensor, x_t: Tensor, t: Tensor) -> Losses:
        """Weighted squared error of the prediction plus, where learned, the bound that trains the variance alone.

        Args:
            output: (N, C or 2C, H, W) of any dtype; prediction first, variance behind it.
            x0: (N, C, H, W) clean latents.
            noise: (N, C, H, W) that was added.
            x_t: (N, C, H, W) what ``add_noise`` made of them.
            t: (N,) int64.

        Raises:
            ValueError: an output that has not ``out_channels``.
        """
        channels = x0.shape[1]
        if output.shape[1] != self.out_channels(channels):
            raise ValueError(
                f"the model gives {output.shape[1]} channels where the objective needs {self.out_channels(channels)}; "
                f"make model.out_channels and objective.learned_variance agree"
            )
        tables, x0, output = self._on(t.device), x0.float(), output.float()
        prediction = output[:, :channels]  # (N, C, H, W)
        target = _at(tables.target_x0, t) * x0 + _at(tables.target_noise, t) * noise.float()
        mse = (target - prediction).square().mean(dim=(1, 2, 3))  # (N,)
        vlb = torch.zeros_like(mse)
        if self.learned_variance:
            vlb = self._bound(prediction.detach(), output[:, channels:], x0=x0, x_t=x_t.float(), t=t)
        return Losses(loss=tables.weight[t] * mse + vlb, mse=mse, vlb=vlb)

    def scheduler_config(self) -> dict[str, Any]:
        """Betas and prediction by diffusers' names; the variance half is split off before a scheduler sees it."""
        scale = 1000 / self.num_timesteps
        return {
            "num_train_timesteps": self.num_timesteps,
            "beta_schedule": _DIFFUSERS_SCHEDULE[self.schedule],
            "beta_start": scale * BETA_START,
            "beta_end": scale * BETA_END,
            "prediction_type": _DIFFUSERS_PREDICTION[self.prediction],
        }

    def _bound(self, prediction: Tensor, variance: Tensor, *, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """KL of the step to its posterior, at t = 0 the decoder's likelihood; (N,) bits per dimension.

        The prediction comes detached: the bound may move the variance, never the mean (Nichol & Dhariwal 2021, 3.1).
        """
        tables = self._on(t.device)
        low, high = _at(tables.min_log_variance, t), _at(tables.max_log_variance, t)
        frac = (variance + 1) / 2
        log_variance = frac * high + (1 - frac) * low  # (N, C, H, W)
        x0_pred = _at(tables.clean_x_t, t) * x_t + _at(tables.clean_output, t) * prediction
        # Both means carry the same multiple of x_t, so their difference holds none of it.
        kl = normal_kl(_at(tables.posterior_x0, t) * (x0 - x0_pred), low, log_variance)
        nll = discretised_normal_nll(x0, x0_pred, 0.5 * log_variance)  # at t = 0 the mean is the x0 prediction
        nats = torch.where(t.view(-1, 1, 1, 1) == 0, nll, kl)
        return nats.mean(dim=(1, 2, 3)) / math.log(2)

    def _make_tables(self, weighting: Weighting, gamma: float) -> _Tables:
        alpha_bar = self.alphas_cumprod
        step_back = posterior(self.betas, alpha_bar)
        signal_rate, noise_rate = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        return _Tables(
            signal_rate=signal_rate,
            noise_rate=noise_rate,
            **prediction_maps(self.prediction, signal_rate, noise_rate),
            posterior_x0=step_back.x0,
            min_log_variance=step_back.min_log_variance,
            max_log_variance=step_back.max_log_variance,
            weight=loss_weights(
                alpha_bar / (1 - alpha_bar), weighting=weighting, gamma=gamma, prediction=self.prediction
            ),
        )

    def _on(self, device: torch.device) -> _Tables:
        """The tables in float32, moved to ``device`` once."""
        if device not in self._tables_on:
            self._tables_on[device] = _Tables(*(table.to(device, torch.float32) for table in self._tables))
        return self._tables_on[device]
