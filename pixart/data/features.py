"""Features: what frozen encoders make of a sample, stored once and read without a copy too many.

One member ``<key>.features.safetensors`` of a tar holds ``moments`` (2C, H, W) float16, mean and standard deviation of
the autoencoder's posterior, unscaled; and for each caption i ``states.i`` (L, D) of its true length, no padding: int8
with ``scales.i`` (L,) float32, or bfloat16. Letters as in ``pixart.batch``.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FEATURES_EXTENSION = "features.safetensors"
StatesDtype = Literal["int8", "bfloat16"]

_LEVELS = 127  # int8, symmetric: -128 is not used
_PREFIX = 8  # bytes before the header, which hold its length
_DTYPES = {"F16": np.float16, "F32": np.float32, "I8": np.int8, "BF16": np.uint16}  # numpy has no bfloat16: its bits


class Features(NamedTuple):
    """The features of one sample, as read-only views of the bytes they were read from."""

    moments: NDArray[np.float16] | None  # (2C, H, W); None where only text was extracted
    states: tuple[NDArray[np.int8] | NDArray[np.uint16], ...]  # (L, D) of each caption: int8, or bfloat16's bits
    scales: tuple[NDArray[np.float32], ...]  # (L,) of each caption; empty for bfloat16


def pack(moments: NDArray[np.floating] | None, states: Sequence[NDArray[np.float32]], *, dtype: StatesDtype) -> bytes:
    """The bytes of a features member.

    ``moments`` (2C, H, W), or None; ``states`` (L, D) of each caption. In int8 each token keeps its own scale: no
    element is off by more than 1/254 of the token's largest. Raises ``ValueError`` where a number is not finite, or
    moments do not fit float16.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    if moments is not None:
        with np.errstate(over="ignore"):
            tensors["moments"] = torch.from_numpy(_finite(np.asarray(moments, np.float16), "moments as float16"))
    for i, one in enumerate(states):
        tensors |= _packed_states(i, _finite(np.asarray(one, np.float32), f"states of caption {i}"), dtype)
    return save(tensors)


def _packed_states(i: int, states: NDArray[np.float32], dtype: StatesDtype) -> dict[str, Tensor]:
    if dtype == "bfloat16":
        return {f"states.{i}": torch.from_numpy(states).bfloat16()}
    levels, scales = quantised(states)
    return {f"states.{i}": torch.from_numpy(levels), f"scales.{i}": torch.from_numpy(scales)}


def _finite(values: NDArray[Any], what: str) -> NDArray[Any]:
    if not np.isfinite(values).all():
        raise ValueError(f"the {what} are not all finite: the encoder overflowed, use bf16 or fp32 for it")
    return np.ascontiguousarray(values)


def quantised(states: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """``states`` (L, D) -> int8 levels (L, D) and scales (L,): level * scale is the state."""
    scales = np.abs(states).max(axis=1, initial=0).astype(np.float32) / np.float32(_LEVELS)  # (L,)
    levels = np.rint(states / np.where(scales > 0, scales, 1)[:, None])  # a token of zeros stays one
    return levels.clip(-_LEVELS, _LEVELS).astype(np.int8), scales


def dequantised(states: Tensor, scales: Tensor | None) -> Tensor:
    """Stored ``states`` (N, L, D), with ``scales`` (N, L, 1) if they are int8 -> (N, L, D) float32."""
    return states.float() if scales is None else states * scales


def unpack(buffer: bytes | memoryview) -> Features:
    """The features in a member: views of ``buffer``, nothing copied; ``ValueError`` where it does not hold any."""
    try:
        tensors = _views(buffer)
        captions = sum(name.startswith("states.") for name in tensors)
        states = tuple(tensors[f"states.{i}"] for i in range(captions))
        with_scales = any(one.dtype == np.int8 for one in states)
        scales = tuple(tensors[f"scales.{i}"] for i in range(captions)) if with_scales else ()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the features cannot be read ({type(error).__name__}: {error})") from error
    return Features(tensors.get("moments"), states, scales)


def null_states(stamps: Mapping[str, Any]) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
    """What a dropped caption becomes: states (L, D) of the empty one and their scales (L,), None for bfloat16.

    They travel in the stamps of the index (see ``pixart.data.stamps``). Raises ``ValueError`` where no text was
    extracted.
    """
    stored = stamps["null_caption"]
    if stored is None:
        raise ValueError("the stored features hold no text states: extract them with a text encoder, or use images")
    features = unpack(base64.b64decode(stored))
    return features.states[0], features.scales[0] if features.scales else None


def _views(buffer: bytes | memoryview) -> dict[str, NDArray[Any]]:
    """The tensors of a safetensors buffer; the library's own reader would copy each of them."""
    start = _PREFIX + int.from_bytes(buffer[:_PREFIX], "little")
    header: Mapping[str, Any] = json.loads(bytes(buffer[_PREFIX:start]))
    return {name: _view(buffer, start, **about) for name, about in header.items() if name != "__metadata__"}


def _view(
    buffer: bytes | memoryview, start: int, *, dtype: str, shape: list[int], data_offsets: list[int]
) -> NDArray[Any]:
    kind = np.dtype(_DTYPES[dtype])
    first, last = data_offsets
    view: NDArray[Any] = np.frombuffer(buffer, kind, (last - first) // kind.itemsize, start + first)
    return view.reshape(shape)


def padded(
    states: Sequence[NDArray[Any]], scales: Sequence[NDArray[np.float32]], *, max_tokens: int
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The states of N captions as a batch: (N, L, D) int8 or bfloat16, scales (N, L, 1) or None, mask (N, L) bool.

    L is ``max_tokens``: a fixed length, so that a micro-batch never depends on its neighbours. ``scales`` is empty for
    bfloat16. Raises ``ValueError`` for a caption that is longer, or captions that are not stored alike.
    """
    kinds = {(one.dtype, one.shape[1]) for one in states}
    if len(kinds) > 1:
        raise ValueError(f"text states of different kinds {sorted(map(str, kinds))} cannot share a batch")
    (dtype, dim) = kinds.pop()
    values = np.zeros((len(states), max_tokens, dim), dtype)
    factors = np.zeros((len(states), max_tokens, 1), np.float32)
    mask = np.zeros((len(states), max_tokens), bool)
    for i, one in enumerate(states):
        length = len(one)
        if length > max_tokens:
            raise ValueError(f"text states of {length} tokens where max_tokens is {max_tokens}: extract them anew")
        values[i, :length] = one
        mask[i, :length] = True
        if scales:
            factors[i, :length, 0] = scales[i]
    tensor = torch.from_numpy(values)
    if not scales:
        tensor = tensor.view(torch.bfloat16)
    return tensor, torch.from_numpy(factors) if scales else None, torch.from_numpy(mask)
