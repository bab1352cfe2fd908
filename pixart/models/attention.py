"""Attention: one function from (q, k, v, padding) to values, in several backends, and the two modules that use it.

Letters: N batch, T image tokens, L caption tokens, D width, h heads, d width of a head.
"""

import logging
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixart.models.precision import as_given

logger = logging.getLogger(__name__)


class Backend(NamedTuple):
    """A way to compute attention.

    ``prepare(mask (N, L) bool, queries)`` runs once per forward of the model, ``queries`` being T; what it returns is
    handed to each ``attend(q (N, T, h, d), k (N, S, h, d), v (N, S, h, d), padding)`` -> (N, T, h, d) as ``padding``,
    which is None where every key is real. An image without any real key gets zeros.
    """

    prepare: Callable[[Tensor, int], Any]
    attend: Callable[[Tensor, Tensor, Tensor, Any], Tensor]


def _keys(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Keys to look at (N, L), never none of a row, and the rows that have real ones (N, 1, 1, 1)."""
    some = mask.any(dim=1, keepdim=True)
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    return mask | (~some & first), some[:, :, None, None]


class _Masked(NamedTuple):
    keys: Tensor  # (N, 1, 1, L) bool
    some: Tensor  # (N, 1, 1, 1) bool


def _prepare_sdpa(mask: Tensor, _: int) -> _Masked:
    keys, some = _keys(mask.bool())
    return _Masked(keys[:, None, None, :], some)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, padding: _Masked | None) -> Tensor:
    keys = None if padding is None else padding.keys
    if padding is not None:
        v = v * padding.some
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (N, h, T or S, d)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=keys).transpose(1, 2)


class _Packed(NamedTuple):
    places: Tensor  # (sum of lengths,) of the keys among N * L
    bias: Any  # xformers' BlockDiagonalMask
    some: Tensor  # (N, 1, 1, 1) bool


def _prepare_xformers(mask: Tensor, queries: int) -> _Packed:
    """Reads the lengths on the host, since xformers wants a list: one synchronisation per forward."""
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

    keys, some = _keys(mask.bool())
    lengths = keys.sum(dim=1).tolist()
    bias = BlockDiagonalMask.from_seqlens([queries] * len(lengths), lengths, device=mask.device)
    return _Packed(keys.flatten().nonzero().squeeze(1), bias, some)


def _xformers(q: Tensor, k: Tensor, v: Tensor, padding: _Packed | None) -> Tensor:
    from xformers.ops import memory_efficient_attention

    if padding is None:
        return memory_efficient_attention(q, k, v)
    k, v = (x.flatten(0, 1)[padding.places][None] for x in (k, v * padding.some))  # (1, sum of lengths, h, d)
    packed = memory_efficient_attention(q.flatten(0, 1)[None], k, v, attn_bias=padding.bias)  # (1, N * T, h, d)
    return packed.view(q.shape)


BACKENDS = {"sdpa": Backend(_prepare_sdpa, _sdpa), "xformers": Backend(_prepare_xformers, _xformers)}


@cache
def usable(name: str, device_type: str) -> str:
    """``name``, or "sdpa" and one line in the log where that backend cannot run on this kind of device."""
    if name != "xformers":
        return name
    reason = "it has no kernels outside CUDA"
    if device_type == "cuda":
        logging.getLogger("xformers").setLevel(logging.ERROR)  # it warns at length about kernels that we do not use
        try:
            import xformers.ops  # noqa: F401
        except (ImportError, OSError) as error:
            reason = str(error)
        else:
            return name
    logger.warning("attention=xformers cannot run on %s (%s): using sdpa", device_type, reason)
    return "sdpa"


def choose(name: str, device: torch.device) -> Backend:
    """The backend of that name, or the portable one where it cannot run on ``device``."""
    return BACKENDS[name if name == "sdpa" else usable(name, device.type)]


class SelfAttention(nn.Module):
    """Every image token looks at every other; ``fp32`` computes the attention itself in float32, autocast or not."""

    def __init__(self, dim: int, num_heads: int, *, backend: str, fp32: bool) -> None:
        super().__init__()
        self.num_heads, self.backend, self.fp32 = num_heads, backend, fp32
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, D) -> (N, T, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(2)  # each (N, T, h, d)
        attend = choose(self.backend, x.device).attend
        if self.fp32:
            dtype = q.dtype
            with as_given(x.device):
                values = attend(q.float(), k.float(), v.float(), None).to(dtype)
        else:
            values = attend(q, k, v, None)  # (N, T, h, d)
        return self.proj(values.flatten(2))


class CrossAttention(nn.Module):
    """Every image token looks at the real tokens of its own caption."""

    def __init__(self, dim: int, num_heads: int, *, backend: str) -> None:
        super().__init__()
        self.num_heads, self.backend = num_heads, backend
        self.q_linear = nn.Linear(dim, dim)
        self.kv_linear = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, y: Tensor, padding: Any) -> Tensor:
        """``x`` (N, T, D), ``y`` (N, L, D), ``padding`` as the backend prepared it, or None -> (N, T, D)."""
        q = self.q_linear(x).unflatten(-1, (self.num_heads, -1))  # (N, T, h, d)
        k, v = self.kv_linear(y).unflatten(-1, (2, self.num_heads, -1)).unbind(2)  # each (N, L, h, d)
        values = choose(self.backend, x.device).attend(q, k, v, padding)  # (N, T, h, d)
        return self.proj(values.flatten(2))
