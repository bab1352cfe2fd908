"""The architecture of a model, read off the shapes of its tensors."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pixart.foreign_words import plain, quoted
from pixart.formats import released
from pixart.formats.positions import Square, Told, Untold
from pixart.models.dit import PixArt, from_config

LABELS = "y_embedder.embedding_table.weight"
CAPTION = "y_embedder.y_proj.fc1.weight"
PATCHES, OUTPUTS = "x_embedder.proj.weight", "final_layer.linear.bias"
# Where a number can be read: three places, so that one wrong tensor is outvoted, and then named by ``check``.
WIDTHS = ((PATCHES, 4, 0), ("x_embedder.proj.bias", 1, 0), ("t_embedder.mlp.2.bias", 1, 0))
HIDDEN = (("blocks.0.mlp.fc1.weight", 2, 0), ("blocks.0.mlp.fc1.bias", 1, 0), ("blocks.0.mlp.fc2.weight", 2, 1))
RUNNING = {"attention": "sdpa", "fp32_attention": False, "checkpointing": "none"}  # how to compute, not what


def infer(path: Path, tensors: Mapping[str, Tensor], square: Square, given: Told, otherwise: Told) -> dict[str, Any]:
    """The keyword arguments of ``PixArt`` for tensors in our names; heads as given, or as the released widths have.

    Raises ``ValueError`` naming the tensor that is missing or has no possible shape.
    """
    _, in_channels, patch_size, _ = _shape(path, tensors, PATCHES, 4)
    dim, hidden = _agreed(path, tensors, WIDTHS), _agreed(path, tensors, HIDDEN)
    outputs = _shape(path, tensors, OUTPUTS, 1)[0]
    if outputs not in (in_channels * patch_size**2, 2 * in_channels * patch_size**2):
        raise ValueError(
            f"{path}: tensor '{OUTPUTS}' is ({outputs},), where the {in_channels} channels and patches of "
            f"{patch_size} in tensor '{PATCHES}' ask for {in_channels * patch_size**2} or twice that"
        )
    num_heads = given.num_heads or released.HEADS.get(dim) or otherwise.num_heads
    if num_heads is None:
        raise Untold(f"{path}: nothing in the file tells the number of heads at width {dim}; give num_heads=")
    has_text = any(name.startswith("y_embedder.y_proj.") or ".cross_attn." in name for name in tensors)
    num_classes = None if has_text and LABELS not in tensors else _shape(path, tensors, LABELS, 2)[0] - 1
    return {
        "input_size": square.input_size,
        "patch_size": patch_size,
        "in_channels": in_channels,
        "out_channels": outputs // patch_size**2,
        "dim": dim,
        "depth": len({match[1] for name in tensors if (match := re.match(r"blocks\.(\d+)\.", name))}),
        "num_heads": num_heads,
        "mlp_ratio": _ratio(hidden, dim),
        "text_dim": _shape(path, tensors, CAPTION, 2)[1] if has_text else None,
        "num_classes": num_classes,
        "size_conditioning": any(name.startswith(("csize_embedder.", "ar_embedder.")) for name in tensors),
        "adaln": "per_block" if any(".adaLN_modulation." in name for name in tensors) else "single",
        "interpolation_scale": square.interpolation_scale,
        **RUNNING,
    }


def patch_size_of(path: Path, tensors: Mapping[str, Tensor]) -> int:
    """P, off the patch embedding."""
    return _shape(path, tensors, PATCHES, 4)[2]


def on_meta(path: Path, config: Mapping[str, Any]) -> PixArt:
    """The model that ``config`` describes, without memory; ``ValueError`` naming the key that describes none."""
    with torch.device("meta"):
        return from_config(path, dict(config))


def check(path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """``ValueError`` naming the first tensor that is unknown, missing, or has another shape than wanted."""
    for name in [name for name in found if name not in wanted]:
        raise ValueError(f"{path}: tensor {quoted(name)} is unknown to the model")
    for name, tensor in wanted.items():
        if name not in found:
            raise ValueError(f"{path}: tensor '{name}' is missing")
        if found[name].shape != tensor.shape:
            raise ValueError(f"{path}: tensor '{name}' is {tuple(found[name].shape)}, not {tuple(tensor.shape)}")


def _shape(path: Path, tensors: Mapping[str, Tensor], name: str, dims: int) -> tuple[int, ...]:
    if name not in tensors:
        raise ValueError(f"{path}: tensor '{name}' is missing")
    shape = tuple(tensors[name].shape)
    if len(shape) != dims or 0 in shape:
        raise ValueError(f"{path}: tensor '{name}' is {plain(str(shape))}, where {dims} sides are expected, none empty")
    return shape


def _agreed(path: Path, tensors: Mapping[str, Tensor], places: tuple[tuple[str, int, int], ...]) -> int:
    """The middle one of three sides, each given as tensor, number of its sides and which of them."""
    return sorted(_shape(path, tensors, name, dims)[side] for name, dims, side in places)[1]


def _ratio(hidden: int, dim: int) -> float:
    """The ratio r for which int(dim * r) is ``hidden`` again."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else math.nextafter(ratio, math.inf)
