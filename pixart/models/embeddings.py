"""From numbers, captions and labels to vectors of width D, and from grid places to position vectors.

Letters: N batch, T image tokens, L caption tokens, D width, K numbers per image.
"""

import math

import torch
from torch import Tensor, nn

from pixart.models.linear import make_mlp

FREQUENCIES = 128  # so a number is described by 256 sinusoids, as in every released PixArt and DiT


def sinusoids(x: Tensor) -> Tensor:
    """Numbers (...) -> (..., 256) float32: 128 cosines, then 128 sines, of frequencies 10000^(-k/128)."""
    exponents = torch.arange(FREQUENCIES, dtype=torch.float32, device=x.device) / FREQUENCIES
    angles = x.float()[..., None] * torch.exp(-math.log(10000.0) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class NumberEmbedder(nn.Module):
    """Each of K numbers as a vector of width ``dim``: sinusoids, then a two-layer MLP."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * FREQUENCIES, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Numbers (N,) -> (N, dim), or (N, K) -> (N, K * dim)."""
        vectors = self.mlp(sinusoids(x).to(next(self.mlp.parameters()).dtype))
        return vectors if x.ndim == 1 else vectors.flatten(1)


class ConditionEmbedder(nn.Module):
    """What is asked for: captions through ``y_proj``, classes through ``embedding_table``; either may be absent.

    The table has one row more than there are classes: the last is the null label.
    """

    def __init__(self, *, dim: int, text_dim: int | None, num_classes: int | None) -> None:
        super().__init__()
        self.y_proj = None if text_dim is None else make_mlp(text_dim, dim, dim)
        self.embedding_table = None if num_classes is None else nn.Embedding(num_classes + 1, dim)


class Positions(nn.Module):
    """Fixed 2-D sin-cos positions; nothing of it is in the state dict, so any grid can follow any other.

    Both axes span [0, base_size / interpolation_scale), whatever the number of tokens on them. The first half of the
    D channels tells the column, the second half the row.
    """

    def __init__(self, *, dim: int, base_size: int, interpolation_scale: float) -> None:
        super().__init__()
        self.dim, self.base_size, self.interpolation_scale = dim, base_size, interpolation_scale
        self._axes: dict[tuple[int, torch.device], Tensor] = {}

    def forward(self, height: int, width: int, device: torch.device) -> Tensor:
        """Positions of a grid of ``height`` x ``width`` tokens, row by row: (height * width, D) float32."""
        columns = self._axis(width, device)[None].expand(height, -1, -1)  # (h, w, D/2)
        rows = self._axis(height, device)[:, None].expand(-1, width, -1)  # (h, w, D/2)
        return torch.cat([columns, rows], dim=-1).flatten(0, 1)  # (T, D)

    def _axis(self, n: int, device: torch.device) -> Tensor:
        """(n, D/2); kept per axis and not per grid, since 40 grids of 4096 tokens would fill 0.75 GB."""
        key = (n, device)
        if key not in self._axes:
            table = self._make_axis(n, device)
            if type(table) is not Tensor:  # a fake tensor must not outlive its tracing
                return table
            self._axes[key] = table
        return self._axes[key]

    def _make_axis(self, n: int, device: torch.device) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():  # kept tables may be used in training later
            places = torch.arange(n, dtype=torch.float32, device=device) / (n / self.base_size)
            frequencies = torch.arange(self.dim // 4, dtype=torch.float64, device=device) / (self.dim // 4)
            angles = (places / self.interpolation_scale).double()[:, None] * 10000.0**-frequencies  # (n, D/4)
            return torch.cat([angles.sin(), angles.cos()], dim=-1).float()
