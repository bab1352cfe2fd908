"""Ways to compute attention that the model does not offer, as its backends are made, for comparison."""

from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from pixart.models.attention import BACKENDS, Backend

_KERNELS = {
    "sdpa flash": SDPBackend.FLASH_ATTENTION,
    "sdpa cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def candidates(device: torch.device) -> dict[str, Backend]:
    """What torch has for this kind of device; variable lengths and the backward of flex are for CUDA alone.

    The kernels of sdpa are among them, each by itself: the one that takes as long as sdpa is what it chooses.
    """
    if device.type != "cuda":
        return {}
    return {
        **{name: BACKENDS["sdpa"]._replace(attend=partial(_by, kernel)) for name, kernel in _KERNELS.items()},
        "torch flex": Backend(_prepare_flex, _as_it_is, _flex),
        "torch varlen": Backend(_prepare_varlen, _as_it_is, _varlen),
    }


def laid_out(backend: Backend, k: Tensor, v: Tensor, padding: Any) -> tuple[Tensor, Tensor]:
    """Keys and values (N, L, h, d) as ``backend`` takes them: what a block does with those that it has computed."""
    if padding is None:
        return k, v
    kv, places = torch.cat([k.flatten(2), v.flatten(2)], dim=-1), getattr(padding, "places", None)  # (N, L, 2D)
    kv = backend.spread(kv if places is None else kv.flatten(0, 1)[places], padding)
    k, v = kv.unflatten(-1, (2, k.shape[2], -1)).unbind(-3)
    return k, v


def _as_it_is(kv: Tensor, _: Any) -> Tensor:
    return kv


def unmasked(q: Tensor, k: Tensor, v: Tensor, _: Any) -> Tensor:
    """Attention to padding too: what a mask costs is the distance from this."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (N, h, T or L, d)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def _by(kernel: SDPBackend, q: Tensor, k: Tensor, v: Tensor, padding: Any) -> Tensor:
    with sdpa_kernel(kernel):
        return BACKENDS["sdpa"].attend(q, k, v, padding)


def _prepare_flex(mask: Tensor, queries: int, _: Tensor | None) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def real(n: Tensor, _head: Tensor, _query: Tensor, key: Tensor) -> Tensor:
        return mask[n, key]

    return create_block_mask(real, len(mask), None, queries, mask.shape[1], device=str(mask.device))


@cache
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def _flex(q: Tensor, k: Tensor, v: Tensor, padding: Any) -> Tensor:
    q, k, v = (x.transpose(1, 2).contiguous() for x in (q, k, v))  # (N, h, T or L, d)
    values: Tensor = _compiled_flex()(q, k, v, block_mask=padding)
    return values.transpose(1, 2)


class _Lengths(NamedTuple):
    places: Tensor  # (S,) of the real keys among N * L
    ends: Tensor  # (N + 1,) int32 of each caption's keys among S
    longest: int


def _prepare_varlen(mask: Tensor, _: int, places: Tensor | None) -> _Lengths:
    ends = F.pad(mask.sum(dim=1).cumsum(0), (1, 0)).int()
    places = mask.flatten().nonzero().squeeze(1) if places is None else places
    return _Lengths(places, ends, mask.shape[1])


def _varlen(q: Tensor, k: Tensor, v: Tensor, padding: _Lengths | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    queries = torch.arange(len(q) + 1, device=q.device, dtype=torch.int32) * q.shape[1]
    ends, longest = (queries, k.shape[1]) if padding is None else (padding.ends, padding.longest)
    k, v = (x.flatten(0, -3) for x in (k, v))  # (S, h, d), packed already where there is padding
    values = varlen_attn(q.flatten(0, 1), k, v, queries, ends, q.shape[1], longest)
    assert isinstance(values, Tensor)
    return values.view(q.shape)
