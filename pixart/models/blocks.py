"""The transformer's block and its last layer, modulated by adaLN-single (paper section 2.3) or per block as in DiT.

Letters: N batch, T image tokens, L caption tokens, D width, P patch side, C output channels.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pixart.models.attention import CrossAttention, KeysValues, SelfAttention, Text
from pixart.models.linear import make_mlp
from pixart.models.precision import as_given
from pixart.models.recompute import Checkpointing, through


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalised ``x`` (N, T, D) scaled and shifted by (N, 1, D) each."""
    return x * (1 + scale) + shift


def own_modulation(dim: int, rows: int) -> nn.Sequential:
    """A module's own map from the time vector to its modulation, (N, D) -> (N, rows * D)."""
    return nn.Sequential(nn.SiLU(), nn.Linear(dim, rows * dim))


def _norm(dim: int) -> nn.LayerNorm:
    return nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)


class PixArtBlock(nn.Module):
    """Self-attention, cross-attention to the caption (where there is text), MLP.

    The query of the cross-attention is not normalised and its result not gated: the released weights expect it so.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float,
        text: bool,
        shared_modulation: bool,
        attention: str,
        fp32_attention: bool,
        checkpointing: Checkpointing,
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.run: Run = run_through
        self.norm1 = _norm(dim)
        self.attn = SelfAttention(dim, num_heads, backend=attention, fp32=fp32_attention)
        self.cross_attn = CrossAttention(dim, num_heads, backend=attention) if text else None
        self.norm2 = _norm(dim)
        self.mlp = make_mlp(dim, int(dim * mlp_ratio), dim)
        self.scale_shift_table = nn.Parameter(torch.empty(6, dim)) if shared_modulation else None
        self.adaLN_modulation = None if shared_modulation else own_modulation(dim, 6)

    def modulation(self, t: Tensor) -> tuple[Tensor, ...]:
        """Shift, scale and gate of the attention, then of the MLP, each (N, 1, D).

        ``t`` is the modulation shared by all blocks, (N, 6, D). A block that has its own takes the time vector, (N, D),
        or what ``own_rows`` made of it.
        """
        if self.scale_shift_table is not None:
            return (self.scale_shift_table + t).chunk(6, dim=1)
        return (t if t.ndim == 3 else self.own_rows(t)).chunk(6, dim=1)

    def own_rows(self, vector: Tensor) -> Tensor:
        """The block's own modulation, time vector (N, D) -> (N, 6, D); ``forward`` takes it in place of the vector."""
        assert self.adaLN_modulation is not None
        with as_given(vector.device):
            rows: Tensor = self.adaLN_modulation(vector).unflatten(1, (6, -1))
        return rows

    def keys_values(self, text: Text | None) -> KeysValues | None:
        """What the block looks at in ``text``; ``forward`` takes it in place of that."""
        return None if self.cross_attn is None or text is None else self.cross_attn.keys_values(text)

    def residuals(self, x: Tensor, t: Tensor, text: Text | KeysValues | None) -> Tensor:
        """The block itself; inputs and output as of ``forward``."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(t)
        x = x + gate1 * self.attn(modulate(self.norm1(x), shift1, scale1))
        if self.cross_attn is not None:
            x = x + self.cross_attn(x, text)
        return x + gate2 * self.mlp(modulate(self.norm2(x), shift2, scale2))

    def forward(self, x: Tensor, t: Tensor, text: Text | KeysValues | None) -> Tensor:
        """``x`` (N, T, D), ``t`` as in ``modulation``, the captions of N images or None -> (N, T, D)."""
        return self.run(self, x, t, text)


Run = Callable[[PixArtBlock, Tensor, Tensor, Text | KeysValues | None], Tensor]


def run_through(block: PixArtBlock, x: Tensor, t: Tensor, text: Text | KeysValues | None) -> Tensor:
    """A block's residuals, in training with those activations computed again that it does not keep."""
    return through(block.checkpointing if block.training else "none")(block.residuals, x, t, text)


class FinalLayer(nn.Module):
    """From tokens to patches; with adaLN-single the time vector itself is added to both rows of the table."""

    def __init__(self, dim: int, patch_outputs: int, *, shared_modulation: bool) -> None:
        super().__init__()
        self.norm_final = _norm(dim)
        self.linear = nn.Linear(dim, patch_outputs)
        self.scale_shift_table = nn.Parameter(torch.empty(2, dim)) if shared_modulation else None
        self.adaLN_modulation = None if shared_modulation else own_modulation(dim, 2)

    def modulation(self, t: Tensor) -> tuple[Tensor, ...]:
        """Shift and scale, each (N, 1, D), of the time vector (N, D)."""
        if self.scale_shift_table is not None:
            return (self.scale_shift_table + t[:, None]).chunk(2, dim=1)
        assert self.adaLN_modulation is not None
        return self.adaLN_modulation(t).unflatten(1, (2, -1)).chunk(2, dim=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """``x`` (N, T, D), ``t`` (N, D) -> (N, T, P * P * C), the channel running fastest."""
        shift, scale = self.modulation(t)
        return self.linear(modulate(self.norm_final(x), shift, scale))
