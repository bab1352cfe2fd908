"""Latents, noise and captions made up for a measurement, in the sizes of a training step."""

from typing import NamedTuple

import torch
from pydantic import model_validator
from torch import Tensor

from pixart.batch import Conditioning, places_of
from pixart.benchmark.case import Case
from pixart.config import Positive, Section

STRIDE, CHANNELS = 8, 4  # of the autoencoder


class Text(Section):
    """The captions' states."""

    dim: Positive
    mean: Positive  # tokens of a caption
    longest: Positive  # to which all are padded

    @model_validator(mode="after")
    def _mean_within(self) -> "Text":
        if self.mean > self.longest:
            raise ValueError(f"mean={self.mean} tokens are more than longest={self.longest}: give a smaller mean")
        return self


class Examples(NamedTuple):
    """One micro-batch, on the device."""

    x0: Tensor  # (N, C, H, W)
    noise: Tensor  # (N, C, H, W)
    u: Tensor  # (N,) float64 in [0, 1)
    cond: Conditioning
    text_tokens: int  # real ones, of all captions

    @property
    def images(self) -> int:
        return len(self.x0)


def examples_of(case: Case, text: Text, *, dtype: torch.dtype, device: torch.device, seed: int) -> Examples:
    """Those of a case: its batch, at its resolution."""
    shape = (CHANNELS, case.resolution // STRIDE, case.resolution // STRIDE)
    return make_examples(case.batch, shape=shape, text=text, dtype=dtype, device=device, seed=seed)


def make_examples(
    count: int, *, shape: tuple[int, int, int], text: Text, dtype: torch.dtype, device: torch.device, seed: int
) -> Examples:
    """``count`` latents of ``shape`` (C, H, W), captions of ``text.mean`` tokens on average, states in ``dtype``.

    Lengths are even between one and as far above the mean; their sum is the mean's to the token.
    """
    rng = torch.Generator().manual_seed(seed)
    _, height, width = shape
    real = lengths(count, text, rng)  # (N,)
    mask = torch.arange(text.longest) < real[:, None]
    cond = Conditioning(
        tokens=torch.randn(count, text.longest, text.dim, generator=rng).to(dtype),
        mask=mask,
        size=torch.tensor([[height, width]]).expand(count, 2) * float(STRIDE),
        aspect_ratio=torch.full((count, 1), height / width),
        places=places_of(mask),  # as the loader gives them
    )
    return Examples(
        torch.randn(count, *shape, generator=rng).to(device),
        torch.randn(count, *shape, generator=rng).to(device),
        torch.rand(count, dtype=torch.float64, generator=rng).to(device),
        cond.to(device),
        int(real.sum()),
    )


def lengths(count: int, text: Text, rng: torch.Generator) -> Tensor:
    """(N,) of mean ``text.mean``: in pairs as far above it as below."""
    spread = min(text.mean - 1, text.longest - text.mean)
    above = torch.randint(0, spread + 1, (count // 2,), generator=rng)
    middle = torch.full((count % 2,), text.mean)
    return torch.cat([text.mean + above, text.mean - above, middle])
