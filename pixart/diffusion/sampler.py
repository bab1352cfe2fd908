"""From noise to latents: one loop around the schedulers of diffusers."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pixart.batch import Conditioning, Denoiser
from pixart.diffusion.guidance import GuidanceChannels, guided
from pixart.diffusion.objective import Objective

# Below this log signal-to-noise ratio a schedule says nothing more and 1 / signal overflows; the linear one ends
# just above it at -5.06 and is left whole.
LAMBDA_MIN = -5.1


def _dpm_solver(config: dict[str, Any]) -> Any:
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(**config, solver_order=2, lambda_min_clipped=LAMBDA_MIN)


def _dpm_solver_logsnr(config: dict[str, Any]) -> Any:
    from diffusers import DPMSolverMultistepScheduler

    # Steps even in log signal-to-noise ratio (Lu et al. 2022): many more of them near the clean end, which
    # pays where single pixels matter.
    return DPMSolverMultistepScheduler(**config, solver_order=2, use_lu_lambdas=True)


def _ddim(config: dict[str, Any]) -> Any:
    from diffusers import DPMSolverMultistepScheduler

    # DPM-Solver++ of order one is DDIM (Lu et al. 2022). diffusers' own DDIM steps by T // steps and so
    # leaves noise behind wherever the number of steps does not divide T; its "trailing" spacing, here as elsewhere,
    # makes one timestep too many, -1, for 61, 103, 121 ... steps.
    return DPMSolverMultistepScheduler(**config, solver_order=1, lambda_min_clipped=LAMBDA_MIN)


def _ddpm(config: dict[str, Any]) -> Any:
    from diffusers import DDPMScheduler

    # Evenly from T - 1 to 0, both included: the spacing of Improved DDPM's sampler.
    return DDPMScheduler(**config, clip_sample=False, timestep_spacing="linspace")


def _euler(config: dict[str, Any]) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=config["num_train_timesteps"], shift=config["flow_shift"]
    )


_GAUSSIAN = {"dpm_solver": _dpm_solver, "dpm_solver_logsnr": _dpm_solver_logsnr, "ddim": _ddim, "ddpm": _ddpm}
_FLOW = {"dpm_solver": _dpm_solver, "ddim": _ddim, "euler": _euler}


def make_scheduler(objective: Objective, name: str) -> Any:
    """A fresh diffusers scheduler that walks the objective's path.

    Args:
        objective: says betas or flow, and what is predicted.
        name: ``dpm_solver`` (DPM-Solver++, order 2, steps even in time as the official sampler's) or ``ddim``; for
            Gaussian diffusion also ``dpm_solver_logsnr`` and ``ddpm``, for flow matching also ``euler``.

    Raises:
        ValueError: a name that the objective has no scheduler for.
    """
    config = objective.scheduler_config()
    known = _FLOW if config.get("use_flow_sigmas") else _GAUSSIAN
    if name not in known:
        raise ValueError(f"scheduler: '{name}' is not one of {', '.join(known)}, which this objective can use")
    return known[name](config)


def _draws_noise(scheduler: Any) -> bool:
    return type(scheduler).__name__ == "DDPMScheduler"


def _set_times(scheduler: Any, num_inference_steps: int) -> tuple[Tensor, Tensor]:
    """Resets the scheduler; its own timesteps and the times that the model is told, (steps,) each, on the CPU."""
    limit = scheduler.config.num_train_timesteps
    # The full chain is DDPM's home; two equal timesteps in a row make a solver divide by zero.
    lowest, highest = (2, limit) if _draws_noise(scheduler) else (1, limit - 1)
    if not lowest <= num_inference_steps <= highest:
        raise ValueError(
            f"num_inference_steps: {num_inference_steps} must be from {lowest} to {highest} for this scheduler"
        )
    if type(scheduler).__name__ == "FlowMatchEulerDiscreteScheduler":
        # Left to itself it shifts the smallest time twice and spends its last step on almost nothing.
        sigmas = torch.linspace(1, 1 / num_inference_steps, num_inference_steps, dtype=torch.float64)
        scheduler.set_timesteps(sigmas=sigmas.tolist())
    else:
        scheduler.set_timesteps(num_inference_steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # or it looks its place up by timestep, and takes the second of two equal ones
    if scheduler.config.get("use_flow_sigmas"):
        # Its timesteps are cut to integers; the times that belong to its sigmas are not integers.
        return scheduler.timesteps, scheduler.sigmas[:-1] * limit
    return scheduler.timesteps, scheduler.timesteps


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    scheduler: Any,
    latents: Tensor,
    cond: Conditioning,
    null: Conditioning | None,
    *,
    guidance_scale: float,
    num_inference_steps: int,
    guidance_channels: GuidanceChannels = "all",
    generators: Sequence[torch.Generator] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Latents (N, C, H, W) float32 that the denoiser draws out of noise.

    Args:
        denoiser: gives (N, C or 2C, H, W); a variance half is split off here, schedulers use their own variance.
        scheduler: from ``make_scheduler``; it is reset, so one may be used again.
        latents: (N, C, H, W) standard normal noise.
        cond: N rows.
        null: N rows, or None where guidance_scale is 1.
        guidance_scale: see ``guided``.
        num_inference_steps: calls of the denoiser.
        guidance_channels: see ``guided``.
        generators: N of them, on the CPU, one for each row's noise: needed by ``ddpm``, unused by the others.
        progress: called with (steps done, steps in all) after each.

    Raises:
        ValueError: a number of steps out of range, ``ddpm`` without generators, guidance without null.
    """
    if generators is None and _draws_noise(scheduler):
        raise ValueError("scheduler 'ddpm' draws noise at every step; give one generator per image")
    predict = guided(denoiser, guidance_scale=guidance_scale, channels=guidance_channels)
    timesteps, model_times = _set_times(scheduler, num_inference_steps)
    noise_source = {} if generators is None else {"generator": list(generators)}
    latents = latents.float()
    for done, (timestep, time) in enumerate(zip(timesteps, model_times, strict=True), start=1):
        t = time.expand(len(latents)).to(latents.device)  # (N,)
        prediction = predict(latents, t, cond, null).float()  # (N, C, H, W)
        latents = scheduler.step(prediction, timestep, latents, **noise_source, return_dict=False)[0]
        if progress is not None:
            progress(done, len(timesteps))
    return latents
