"""Attention: one function from (q, k, v, padding) to values, in several backends, and the two modules that use it.

Letters: N batch, T image tokens, L caption tokens, S caption tokens that count in a batch, D width, h heads, d width of
a head.
"""

import logging
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixart.batch import places_of
from pixart.models.linear import Linear
from pixart.models.precision import as_given

logger = logging.getLogger(__name__)


class Text(NamedTuple):
    """Captions as a block takes them: what its keys and values are made of."""

    y: Tensor  # (S, D) the tokens at ``padding.places``, or (N, L, D) all of them
    padding: Any  # as the backend prepared it; None where every token is real


class KeysValues(NamedTuple):
    """Captions as attention takes them: a block's keys and values, made once and good for as long as the captions."""

    k: Tensor  # (N, L, h, d), or as the backend laid them out
    v: Tensor
    padding: Any


class Backend(NamedTuple):
    """A way to compute attention.

    ``prepare(mask (N, L) bool, queries, places)`` runs once per forward of the model, ``queries`` being T and
    ``places`` (S,) those of ``pixart.batch.places_of`` or None. What it returns, ``padding``, has the ``places`` that
    it wants keys and values of, None for all. ``spread(kv, padding)`` lays these out, (S, 2D) or (N, L, 2D), as
    ``attend(q (N, T, h, d), k, v, padding)`` -> (N, T, h, d) takes them; where every key is real ``padding`` is None,
    and k and v are (N, L, h, d). An image without any real key gets zeros.
    """

    prepare: Callable[[Tensor, int, Tensor | None], Any]
    spread: Callable[[Tensor, Any], Tensor]
    attend: Callable[[Tensor, Tensor, Tensor, Any], Tensor]


class _Masked(NamedTuple):
    keys: Tensor  # (N, 1, 1, L) bool, what to look at: never nothing
    places: Tensor | None  # (S,)
    counts: Tensor  # (S, 1), or (N, 1, 1) without places; False for what only stands in for a caption without tokens


def _prepare_sdpa(mask: Tensor, _: int, places: Tensor | None) -> _Masked:
    mask = mask.bool()
    some = mask.any(dim=1)[:, None]  # (N, 1)
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    counts = some[..., None] if places is None else mask.flatten()[places][:, None]
    return _Masked((mask | (~some & first))[:, None, None, :], places, counts)


def _spread_sdpa(kv: Tensor, padding: _Masked) -> Tensor:
    """Zeros where nothing was computed: they are not looked at, and must not be NaN."""
    kv = kv * padding.counts
    if padding.places is None:
        return kv
    n, length = padding.keys.shape[0], padding.keys.shape[3]
    return kv.new_zeros(n * length, kv.shape[1]).index_copy(0, padding.places, kv).unflatten(0, (n, length))


def _sdpa(q: Tensor, k: Tensor, v: Tensor, padding: _Masked | None) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (N, h, T or L, d)
    keys = None if padding is None else padding.keys
    return F.scaled_dot_product_attention(q, k, v, attn_mask=keys).transpose(1, 2)


class _Packed(NamedTuple):
    bias: Any  # xformers' BlockDiagonalMask
    places: Tensor  # (S,)
    counts: Tensor  # (S, 1)


def _prepare_xformers(mask: Tensor, queries: int, places: Tensor | None) -> _Packed:
    """Reads the lengths on the host, since xformers wants a list: one synchronisation per forward."""
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

    mask = mask.bool()
    lengths = mask.sum(dim=1).clamp(min=1).tolist()
    bias = BlockDiagonalMask.from_seqlens([queries] * len(lengths), lengths, device=mask.device)
    places = places_of(mask) if places is None else places
    return _Packed(bias, places, mask.flatten()[places][:, None])


def _spread_xformers(kv: Tensor, padding: _Packed) -> Tensor:
    """(S, 2D) -> (1, S, 2D): one caption behind the other, as they come."""
    return (kv * padding.counts)[None]


def _xformers(q: Tensor, k: Tensor, v: Tensor, padding: _Packed | None) -> Tensor:
    from xformers.ops import memory_efficient_attention

    if padding is None:
        return memory_efficient_attention(q, k, v)
    packed = memory_efficient_attention(q.flatten(0, 1)[None], k, v, attn_bias=padding.bias)  # (1, N * T, h, d)
    return packed.view(q.shape)


BACKENDS = {
    "sdpa": Backend(_prepare_sdpa, _spread_sdpa, _sdpa),
    "xformers": Backend(_prepare_xformers, _spread_xformers, _xformers),
}


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def usable(name: str, device_type: str) -> str:
    """``name``, or "sdpa" and one line in the log where that backend cannot run on this kind of device."""
    return name if name == "sdpa" or _xformers_runs_on(device_type) else "sdpa"


@cache
def _xformers_runs_on(device_type: str) -> bool:
    """It imports without its kernels too, so it is asked to compute; where it cannot, the log says why."""
    lacking = "it has no kernels outside CUDA"
    if device_type == "cuda":
        logging.getLogger("xformers").setLevel(logging.ERROR)  # it warns at length about kernels that we do not use
        try:
            _try_xformers(device_type)
        except (ImportError, OSError, RuntimeError) as error:
            lacking = next(iter(str(error).splitlines()), type(error).__name__).rstrip(":")
        else:
            return True
    logger.warning("attention=xformers cannot run on %s (%s): using sdpa", device_type, lacking)
    return False


@torch.enable_grad()
def _try_xformers(device_type: str) -> None:
    q = torch.zeros(1, 16, 1, 72, dtype=torch.float16, device=device_type, requires_grad=True)
    mask = torch.ones(1, 16, dtype=torch.bool, device=device_type)
    _xformers(q, q, q, _prepare_xformers(mask, 16, None)).sum().backward()


def choose(name: str, device: torch.device) -> Backend:
    """The backend of that name, or the portable one where it cannot run on ``device``."""
    return BACKENDS[usable(name, device.type)]


class SelfAttention(nn.Module):
    """Every image token looks at every other; ``fp32`` computes the attention itself in float32, autocast or not."""

    def __init__(self, dim: int, num_heads: int, *, backend: str, fp32: bool) -> None:
        super().__init__()
        self.num_heads, self.backend, self.fp32 = num_heads, backend, fp32
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)

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
        self.q_linear = Linear(dim, dim)
        self.kv_linear = Linear(dim, 2 * dim)
        self.proj = Linear(dim, dim)

    def keys_values(self, text: Text) -> KeysValues:
        """What this block looks at in the captions; it depends on nothing else."""
        kv = self.kv_linear(text.y)  # (S, 2D) or (N, L, 2D)
        if text.padding is not None:
            kv = choose(self.backend, kv.device).spread(kv, text.padding)  # (N, L, 2D)
        k, v = kv.unflatten(-1, (2, self.num_heads, -1)).unbind(2)  # each (N, L, h, d)
        return KeysValues(k, v, text.padding)

    def forward(self, x: Tensor, text: Text | KeysValues) -> Tensor:
        """``x`` (N, T, D) and the captions of N images -> (N, T, D)."""
        q = self.q_linear(x).unflatten(-1, (self.num_heads, -1))  # (N, T, h, d)
        seen = self.keys_values(text) if isinstance(text, Text) else text
        values = choose(self.backend, x.device).attend(q, seen.k, seen.v, seen.padding)  # (N, T, h, d)
        return self.proj(values.flatten(2))
