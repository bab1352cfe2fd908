"""Guidance around any denoiser: classifier-free (Ho & Salimans 2022), and away from a worse model (autoguidance)."""

from collections.abc import Callable, Sequence
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


class Guide:
    """The predictions of a batch, step after step, led away from those for null and from those of a worse model.

    They are null + guidance_scale * (cond - null), and with a worse model (autoguidance, Karras et al. 2024, arXiv
    2406.02507, equation 3) to that comes (autoguidance_scale - 1) * (cond - the worse model's cond).

    Args:
        channels: ``all``, or ``three`` for the official sampler's: the channels behind the third stay cond's own.
        with_variance: keep the denoiser's variance half, which is never guided: it stays cond's own.
    """

    def __init__(self, *, channels: GuidanceChannels, with_variance: bool):
        self._channels, self._with_variance = channels, with_variance
        self._difference: Tensor | None = None  # cond - null (N, moving channels, H, W), when null was last asked

    def __call__(
        self,
        denoise: Callable[[Tensor], Tensor],
        x_t: Tensor,
        *,
        guidance_scale: float,
        afresh: bool = True,
        worse: Callable[[Tensor], Tensor] | None = None,
        autoguidance_scale: float = 1.0,
    ) -> Tensor:
        """The prediction for ``x_t`` (N, C, H, W): (N, C or 2C, H, W).

        Args:
            denoise: run once, on the 2N rows [cond, null] as one batch, or on the N rows of cond alone where the scale
                is exactly 1 or null is not asked.
            guidance_scale: 1 is no guidance, 0 is the null conditioning alone.
            afresh: ask null as well; otherwise cond - null is what it was when null was last asked.
            worse: run once, on the N rows of cond; None: no autoguidance.
            autoguidance_scale: 1 is none.
        """
        kept = x_t.shape[1] * (2 if self._with_variance else 1)
        moving = x_t.shape[1] if self._channels == "all" else OFFICIAL_CHANNELS
        if guidance_scale == 1:
            given = denoise(x_t)[:, :kept]
            moved = given[:, :moving]
        elif afresh:
            given, nothing = denoise(torch.cat([x_t, x_t]))[:, :kept].chunk(2)  # (N, C or 2C, H, W) each
            self._difference = given[:, :moving] - nothing[:, :moving]
            moved = nothing[:, :moving] + guidance_scale * self._difference
        else:
            assert self._difference is not None
            given = denoise(x_t)[:, :kept]
            moved = given[:, :moving] + (guidance_scale - 1) * self._difference
        if worse is not None:
            moved = moved + (autoguidance_scale - 1) * (given[:, :moving] - worse(x_t)[:, :moving])
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


def afresh(at_each: Sequence[float], *, every: int) -> list[bool]:
    """Whether null is asked at each step, of which the scale is given: at one guided step of ``every``, the first.

    A step without guidance begins the count anew. ``ValueError`` for less than 1.
    """
    if every < 1:
        raise ValueError(f"guidance_every: {every} must be at least 1")
    asked, count = [], 0
    for scale in at_each:
        asked.append(scale != 1 and count % every == 0)
        count = 0 if scale == 1 else count + 1
    return asked
