"""Classifier-free guidance (Ho & Salimans 2022) around any denoiser."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from pixart.batch import Conditioning, concatenate

GuidanceChannels = Literal["all", "three"]
Interval = tuple[float, float]

OFFICIAL_CHANNELS = 3  # DiT's sampler, and PixArt's after it, leave the fourth latent channel unguided


def check_channels(channels: str) -> None:
    """``ValueError`` unless guidance knows these channels."""
    if channels not in ("all", "three"):
        raise ValueError(f"guidance_channels: '{channels}' is not one of all, three")


def joined(cond: Conditioning, null: Conditioning | None, *, guidance_scale: float) -> Conditioning:
    """The 2N rows [cond, null] that guidance asks about; ``ValueError`` where null is missing."""
    if null is None:
        raise ValueError(f"guidance_scale={guidance_scale} needs a null conditioning; give one or set it to 1")
    return concatenate(cond, null)


def predicted(
    denoise: Callable[[Tensor], Tensor],
    x_t: Tensor,
    *,
    guidance_scale: float,
    channels: GuidanceChannels,
    with_variance: bool,
) -> Tensor:
    """The prediction null + guidance_scale * (cond - null) for ``x_t`` (N, C, H, W): (N, C or 2C, H, W).

    Args:
        denoise: run once on the 2N rows [cond, null] as one batch; at a scale of exactly 1 on the N rows of cond alone.
        guidance_scale: 1 is no guidance, 0 is the null conditioning alone.
        channels: ``all``, or ``three`` for the official sampler's: the channels behind the third stay cond's own.
        with_variance: keep the denoiser's variance half, which is never guided: it stays cond's own.
    """
    latent_channels = x_t.shape[1]
    kept = 2 * latent_channels if with_variance else latent_channels
    if guidance_scale == 1:
        return denoise(x_t)[:, :kept]
    given, nothing = denoise(torch.cat([x_t, x_t]))[:, :kept].chunk(2)  # (N, C or 2C, H, W) each
    moving = latent_channels if channels == "all" else OFFICIAL_CHANNELS
    moved = nothing[:, :moving] + guidance_scale * (given[:, :moving] - nothing[:, :moving])
    return torch.cat([moved, given[:, moving:]], dim=1)


def scales(times: Tensor, *, guidance_scale: float, num_timesteps: int, interval: Interval | None) -> list[float]:
    """The guidance scale at each of ``times`` (K,): 1 outside of ``interval`` (Kynkaanniemi et al. 2024).

    Args:
        num_timesteps: where time ends; 0 is the clean end.
        interval: the lowest and the highest share of it, both included; None is all of it.

    Raises:
        ValueError: an interval that is none.
    """
    if interval is None:
        return [guidance_scale] * len(times)
    low, high = interval
    if not 0 <= low < high <= 1:
        raise ValueError(f"guidance_interval: [{low:g}, {high:g}] must be two rising shares of time, from 0 to 1")
    shares = (times.double() / num_timesteps).tolist()
    return [guidance_scale if low <= share <= high else 1.0 for share in shares]
