"""Classifier-free guidance (Ho & Salimans 2022) around any denoiser."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from pixart.batch import Conditioning, Denoiser, concatenate

GuidanceChannels = Literal["all", "three"]
Guided = Callable[[Tensor, Tensor, Conditioning, Conditioning | None], Tensor]

OFFICIAL_CHANNELS = 3  # DiT's sampler, and PixArt's after it, leave the fourth latent channel unguided


def guided(denoiser: Denoiser, *, guidance_scale: float, channels: GuidanceChannels) -> Guided:
    """The prediction null + guidance_scale * (cond - null), without a variance half.

    Args:
        denoiser: run once on [cond, null] as one batch of 2N rows; at a scale of exactly 1 on the N rows of cond alone.
        guidance_scale: 1 is no guidance, 0 is the null conditioning alone.
        channels: ``all``, or ``three`` for the official sampler's: the channels behind the third stay cond's own.

    Returns:
        A callable of ``x_t`` (N, C, H, W), ``t`` (N,), cond and null of N rows each -> (N, C, H, W). It raises
        ValueError where null is needed and missing.
    """
    if channels not in ("all", "three"):
        raise ValueError(f"guidance_channels: '{channels}' is not one of all, three")

    def predict(x_t: Tensor, t: Tensor, cond: Conditioning, null: Conditioning | None) -> Tensor:
        latent_channels = x_t.shape[1]
        if guidance_scale == 1:
            return denoiser(x_t, t, cond)[:, :latent_channels]
        if null is None:
            raise ValueError(f"guidance_scale={guidance_scale} needs a null conditioning; give one or set it to 1")
        both = denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), concatenate(cond, null))[:, :latent_channels]
        given, nothing = both.chunk(2)  # (N, C, H, W) each
        moved = nothing + guidance_scale * (given - nothing)
        if channels == "all":
            return moved
        return torch.cat([moved[:, :OFFICIAL_CHANNELS], given[:, OFFICIAL_CHANNELS:]], dim=1)

    return predict
