"""From noise to latents: one loop around any scheduler."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pixart.batch import Conditioning, Denoiser
from pixart.diffusion import schedulers
from pixart.diffusion.asking import Asked
from pixart.diffusion.dpm_solver import OfficialDPMSolver
from pixart.diffusion.gaussian import Gaussian
from pixart.diffusion.guidance import GuidanceChannels, Guide, Interval, afresh, check_channels, joined, scales
from pixart.diffusion.iddpm import ImprovedDDPM
from pixart.diffusion.objective import Objective
from pixart.diffusion.schedulers import Borrowed, Scheduler

_DIFFUSERS_GAUSSIAN = {
    "dpm_solver": schedulers.dpm_solver,
    "dpm_solver_logsnr": schedulers.dpm_solver_logsnr,
    "ddim": schedulers.ddim,
    "ddpm": schedulers.ddpm,
    "sa_solver": schedulers.sa_solver,
    "lcm": schedulers.lcm,
}
_DIFFUSERS_FLOW = {"dpm_solver": schedulers.dpm_solver, "ddim": schedulers.ddim, "euler": schedulers.euler}
_OURS: dict[str, type[OfficialDPMSolver] | type[ImprovedDDPM]] = {
    "dpm_solver_official": OfficialDPMSolver,
    "iddpm": ImprovedDDPM,
}


def make_scheduler(objective: Objective, name: str) -> Any:
    """A fresh scheduler that walks the objective's path: one of diffusers', or one of ours.

    Args:
        objective: says betas or flow, and what is predicted.
        name: ``dpm_solver`` (DPM-Solver++, order 2, steps even in time) or ``ddim``; for flow matching also ``euler``;
            for Gaussian diffusion also ``dpm_solver_logsnr``, ``ddpm``, ``sa_solver``, ``lcm`` (for weights distilled
            for it alone), and as the official samplers have them ``dpm_solver_official`` (fractional times) and
            ``iddpm`` (respaced, learned variance).

    Raises:
        ValueError: a name that the objective has no scheduler for, ``iddpm`` without a learned variance.
    """
    if isinstance(objective, Gaussian) and name in _OURS:
        return _OURS[name](objective)
    theirs = _DIFFUSERS_GAUSSIAN if isinstance(objective, Gaussian) else _DIFFUSERS_FLOW
    if name not in theirs:
        known = [*theirs, *(_OURS if isinstance(objective, Gaussian) else ())]
        raise ValueError(f"scheduler: '{name}' is not one of {', '.join(known)}, which this objective can use")
    return theirs[name](objective.scheduler_config())


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
    guidance_interval: Interval | None = None,
    guidance_every: int = 1,
    worse: Denoiser | None = None,
    autoguidance_scale: float = 1.0,
    generators: Sequence[torch.Generator] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Latents (N, C, H, W) float32 that the denoiser draws out of noise.

    Args:
        denoiser: gives (N, C or 2C, H, W); only ``iddpm`` uses a variance half, the others have their own variance.
            What it need do only once it may do once: see ``pixart.diffusion.asking``.
        scheduler: from ``make_scheduler``; it is reset, so one may be used again.
        latents: (N, C, H, W) standard normal noise.
        cond: N rows.
        null: N rows, or None where guidance_scale is 1.
        guidance_scale: see ``Guide``.
        num_inference_steps: calls of the denoiser.
        guidance_channels: see ``Guide``.
        guidance_interval: shares of time between which there is guidance, see ``scales``; None: always. It changes the
            results, and steps outside it cost half.
        guidance_every: of so many guided steps null is asked at one, and the others take its difference to cond over;
            it changes the results, and those others cost half.
        worse: a denoiser that learnt the same and knows less, for ``autoguidance_scale``; it is told ``cond``.
        autoguidance_scale: at every step, see ``Guide``; 1 is none, and does not ask ``worse``.
        generators: N of them, on the CPU, one for each row's noise: needed by ``ddpm``, ``iddpm``, ``sa_solver`` and
            ``lcm``, unused by the others.
        progress: called with (steps done, steps in all) after each.

    Raises:
        ValueError: a number of steps out of range, no generators where noise is drawn, guidance without null, or of
            weights that have it distilled in, autoguidance without a worse denoiser.
    """
    solver: Scheduler = scheduler if isinstance(scheduler, OfficialDPMSolver | ImprovedDDPM) else Borrowed(scheduler)
    fewest, most = solver.steps
    if not fewest <= num_inference_steps <= most:
        raise ValueError(
            f"num_inference_steps: {num_inference_steps} must be from {fewest} to {most} for this scheduler"
        )
    if generators is None and solver.draws_noise:
        raise ValueError("a scheduler that draws noise at every step (ddpm, iddpm, sa_solver, lcm) needs generators")
    for key, scale in {"guidance_scale": guidance_scale, "autoguidance_scale": autoguidance_scale}.items():
        if scale != 1 and not solver.guides:
            raise ValueError(f"{key}: {scale:g} must be 1 for this scheduler: its weights have guidance distilled in")
    if autoguidance_scale != 1 and worse is None:
        raise ValueError(f"autoguidance_scale={autoguidance_scale:g} needs a worse model; give one or set it to 1")
    check_channels(guidance_channels)
    latents, times = latents.float(), solver.set_timesteps(num_inference_steps)
    at_each = scales(
        times, guidance_scale=guidance_scale, num_timesteps=solver.num_timesteps, interval=guidance_interval
    )
    with_null = afresh(at_each, every=guidance_every)
    device_times = times.to(latents.device)  # once: at each step the host would wait for it
    asked = {
        both: Asked(
            denoiser,
            joined(cond, null, guidance_scale=guidance_scale) if both else cond,
            device_times,
            (latents.shape[2], latents.shape[3]),
        )
        for both in set(with_null)
    }
    asked_of_worse = None
    if worse is not None and autoguidance_scale != 1:
        asked_of_worse = Asked(worse, cond, device_times, (latents.shape[2], latents.shape[3]))
    guide = Guide(channels=guidance_channels, with_variance=solver.takes_variance)
    for step, (scale, both) in enumerate(zip(at_each, with_null, strict=True)):
        output = guide(  # (N, C or 2C, H, W)
            partial(asked[both], step=step),
            latents,
            guidance_scale=scale,
            afresh=both,
            worse=None if asked_of_worse is None else partial(asked_of_worse, step=step),
            autoguidance_scale=autoguidance_scale,
        )
        latents = solver.step(output.float(), latents, generators)
        if progress is not None:
            progress(step + 1, num_inference_steps)
    return latents
