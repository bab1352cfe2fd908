"""A denoiser that is told once what to draw, and then asked at each step of a schedule."""

from typing import Any

from torch import Tensor

from pixart.batch import Conditioning, Denoiser


class Asked:
    """``asked(x_t, step)``: the denoiser's output for its conditioning at the time number ``step``.

    A denoiser that has ``prepare(cond, times, (H, W))`` does there, once, what is the same at every step, and is called
    as ``denoiser(x_t, t, prepared.at(step))``; any other is called with the conditioning itself.

    Args:
        denoiser: any callable ``denoiser(x_t, t, cond)``.
        cond: N rows.
        times: (K,) of the schedule, where the latents lie.
        size: H and W of the latents.
    """

    def __init__(self, denoiser: Denoiser, cond: Conditioning, times: Tensor, size: tuple[int, int]) -> None:
        self._denoiser: Any = denoiser
        self._times = times
        self._cond = cond
        prepare = getattr(denoiser, "prepare", None)
        self._prepared = None if prepare is None else prepare(cond, times, size)

    def __call__(self, x_t: Tensor, step: int) -> Tensor:
        """``x_t`` (N, C, H, W) -> (N, C or 2C, H, W)."""
        t = self._times[step].expand(len(x_t))  # (N,)
        output: Tensor = self._denoiser(x_t, t, self._cond if self._prepared is None else self._prepared.at(step))
        return output
