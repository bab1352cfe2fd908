"""What the sampling loop asks of a scheduler, and the schedulers of diffusers behind it."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

# Below this log signal-to-noise ratio a schedule says nothing more and 1 / signal overflows; the linear one ends
# just above it at -5.06 and is left whole.
LAMBDA_MIN = -5.1

DISTILLED_TIMES = 50  # evenly spaced timesteps that latent consistency models are trained at

NOISY_FROM, NOISY_TO = 0.2, 0.8  # shares of time between which SA-Solver adds noise: the official few-steps setting


class Scheduler(Protocol):
    """A way from noise to latents in a number of steps; it counts them itself."""

    takes_variance: bool  # whether ``step`` is given the variance half of the output too
    draws_noise: bool  # whether ``step`` needs generators
    guides: bool  # whether guidance is for the sampler to do, and not distilled into the weights it is for
    steps: tuple[int, int]  # fewest and most
    num_timesteps: int  # where time ends

    def set_timesteps(self, num_inference_steps: int) -> Tensor:
        """Starts again; the times that the model is told, (num_inference_steps,) on the CPU."""

    def step(self, output: Tensor, latents: Tensor, generators: Sequence[torch.Generator] | None) -> Tensor:
        """The guided output, (N, C or 2C, H, W), and ``latents`` (N, C, H, W) -> latents one step on."""


class Borrowed:
    """A scheduler of diffusers as the loop wants it."""

    takes_variance = False

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.kind = type(scheduler).__name__
        self.draws_noise = self.kind in ("DDPMScheduler", "SASolverScheduler", "LCMScheduler")
        self.guides = self.kind != "LCMScheduler"
        limit = self.num_timesteps = scheduler.config.num_train_timesteps
        # The full chain is DDPM's home; two equal timesteps in a row make a solver divide by zero.
        ranges = {"DDPMScheduler": (2, limit), "LCMScheduler": (1, DISTILLED_TIMES)}
        self.steps = ranges.get(self.kind, (1, limit - 1))

    def set_timesteps(self, num_inference_steps: int) -> Tensor:
        """Starts again; the times that the model is told."""
        scheduler = self.scheduler
        if self.kind == "FlowMatchEulerDiscreteScheduler":
            # Left to itself it shifts the smallest time twice and spends its last step on almost nothing.
            sigmas = torch.linspace(1, 1 / num_inference_steps, num_inference_steps, dtype=torch.float64)
            scheduler.set_timesteps(sigmas=sigmas.tolist())
        elif self.kind == "LCMScheduler":
            # Left to itself it rounds where the official sampler strides: 999, 759, 499, 259 for 4 steps.
            stride = scheduler.config.num_train_timesteps // DISTILLED_TIMES
            learnt = range(DISTILLED_TIMES * stride - 1, -1, -stride)
            scheduler.set_timesteps(timesteps=learnt[:: DISTILLED_TIMES // num_inference_steps][:num_inference_steps])
        else:
            scheduler.set_timesteps(num_inference_steps)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)  # or it looks its place up by timestep, and takes the second of two equal ones
        self._remaining = iter(scheduler.timesteps)
        if scheduler.config.get("use_flow_sigmas"):
            # Its timesteps are cut to integers; the times that belong to its sigmas are not integers.
            times: Tensor = scheduler.sigmas[:-1] * scheduler.config.num_train_timesteps
            return times
        return scheduler.timesteps

    def step(self, output: Tensor, latents: Tensor, generators: Sequence[torch.Generator] | None) -> Tensor:
        """One step of diffusers'."""
        noise_source = {} if generators is None else {"generator": list(generators)}
        return self.scheduler.step(output, next(self._remaining), latents, **noise_source, return_dict=False)[0]


def dpm_solver(config: dict[str, Any]) -> Any:
    """DPM-Solver++ of order two, integer timesteps even in time."""
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(**config, solver_order=2, lambda_min_clipped=LAMBDA_MIN)


def dpm_solver_logsnr(config: dict[str, Any]) -> Any:
    """The same with steps even in log signal-to-noise ratio."""
    from diffusers import DPMSolverMultistepScheduler

    # Many more steps near the clean end (Lu et al. 2022), which pays where single pixels matter.
    return DPMSolverMultistepScheduler(**config, solver_order=2, use_lu_lambdas=True)


def ddim(config: dict[str, Any]) -> Any:
    """DPM-Solver++ of order one, which is DDIM (Lu et al. 2022)."""
    from diffusers import DPMSolverMultistepScheduler

    # diffusers' own DDIM steps by T // steps and so leaves noise behind wherever the number of steps does not divide
    # T; its "trailing" spacing, here as elsewhere, makes one timestep too many, -1, for 61, 103, 121 ... steps.
    return DPMSolverMultistepScheduler(**config, solver_order=1, lambda_min_clipped=LAMBDA_MIN)


def ddpm(config: dict[str, Any]) -> Any:
    """Ancestral sampling with the posterior's variance, evenly from T - 1 to 0, both included."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(**config, clip_sample=False, timestep_spacing="linspace")


def sa_solver(config: dict[str, Any]) -> Any:
    """SA-Solver, predictor and corrector of order two on clean predictions (Xue et al. 2023)."""
    from diffusers import SASolverScheduler

    noisy = partial(_is_noisy, config["num_train_timesteps"])
    return SASolverScheduler(**config, tau_func=noisy, lambda_min_clipped=LAMBDA_MIN)


def lcm(config: dict[str, Any]) -> Any:
    """Multistep consistency sampling, for weights that have it and their guidance distilled in (Luo et al. 2023)."""
    from diffusers import LCMScheduler

    if config["num_train_timesteps"] < DISTILLED_TIMES:
        raise ValueError(f"scheduler: 'lcm' needs an objective of {DISTILLED_TIMES} timesteps or more")
    return LCMScheduler(**config, original_inference_steps=DISTILLED_TIMES)


def euler(config: dict[str, Any]) -> Any:
    """Euler's steps along a flow."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=config["num_train_timesteps"], shift=config["flow_shift"]
    )


def _is_noisy(num_timesteps: int, t: Tensor) -> float:
    """SA-Solver's tau: the strength of the noise at timestep ``t``."""
    return float(NOISY_FROM * num_timesteps <= t <= NOISY_TO * num_timesteps)
