"""Classifier-free guidance (Ho & Salimans 2022) around any denoiser."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from pixart.batch import Conditioning, Denoiser, concatenate

GuidanceChannels = Literal["all", "three"]
Guided = Callable[[Tensor, Tensor, Conditioning, Conditioning | None], Tensor]

OFFICIAL_CHANNELS = 3  # DiT's sampler, and PixArt's after it, leave the fourth latent channel unguided


def guided(
    denoiser: Denoiser, *, guidance_scale: float, channels: GuidanceChannels, with_variance: bool = False
) -> Guided:
    """The prediction null + guidance_scale * (cond - null).

    Args:
        denoiser: run once on [cond, null] as one batch of 2N rows; at a scale of exactly 1 on the N rows of cond alone.
        guidance_scale: 1 is no guidance, 0 is the null conditioning alone.
        channels: ``all``, or ``three`` for the official sampler's: the channels behind the third stay cond's own.
        with_variance: keep the denoiser's variance half, which is never guided: it stays cond's own.

    Returns:
        A callable of ``x_t`` (N, C, H, W), ``t`` (N,), cond and null of N rows each -> (N, C or 2C, H, W). It raises
        ValueError where null is needed and missing.
    """
    if channels not in ("all", "three"):
        raise ValueError(f"guidance_channels: '{channels}' is not one of all, three")

    def predict(x_t: Tensor, t: Tensor, cond: Conditioning, null: Conditioning | None) -> Tensor:
        latent_channels = x_t.shape[1]
        kept = 2 * latent_channels if with_variance else latent_channels
        if guidance_scale == 1:
            return denoiser(x_t, t, cond)[:, :kept]
        if null is None:
            raise ValueError(f"guidance_scale={guidance_scale} needs a null conditioning; give one or set it to 1")
        both = denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), concatenate(cond, null))[:, :kept]
        given, nothing = both.chunk(2)  # (N, C or 2C, H, W) each
        moving = latent_channels if channels == "all" else OFFICIAL_CHANNELS
        moved = nothing[:, :moving] + guidance_scale * (given[:, :moving] - nothing[:, :moving])
        return torch.cat([moved, given[:, moving:]], dim=1)

    return predict
