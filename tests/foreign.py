"""Other people's files, written down from their own descriptions: names, shapes and positions of tensors."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


def _linear(name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _trunk(dim: int, depth: int, tokens: int, patch: int, channels: int, hidden: int, outputs: int) -> Shapes:
    shapes: Shapes = {
        "pos_embed": (1, tokens, dim),
        "x_embedder.proj.weight": (dim, channels, patch, patch),
        "x_embedder.proj.bias": (dim,),
        **_linear("t_embedder.mlp.0", dim, 256),
        **_linear("t_embedder.mlp.2", dim, dim),
        **_linear("final_layer.linear", patch * patch * outputs, dim),
    }
    for i in range(depth):
        shapes |= _linear(f"blocks.{i}.attn.qkv", 3 * dim, dim) | _linear(f"blocks.{i}.attn.proj", dim, dim)
        shapes |= _linear(f"blocks.{i}.mlp.fc1", hidden, dim) | _linear(f"blocks.{i}.mlp.fc2", dim, hidden)
    return shapes


def pixart_shapes(
    *, dim: int = 1152, depth: int = 28, side: int = 16, text_dim: int = 4096, sizes: bool = False, rows: int = 120,
    patch: int = 2, channels: int = 4, hidden: int | None = None, outputs: int | None = None,
) -> Shapes:  # fmt: skip
    """A PixArt .pth."""
    shapes = _trunk(dim, depth, side * side, patch, channels, hidden or 4 * dim, outputs or 2 * channels)
    shapes |= {"y_embedder.y_embedding": (rows, text_dim), "final_layer.scale_shift_table": (2, dim)}
    shapes |= _linear("t_block.1", 6 * dim, dim)
    shapes |= _linear("y_embedder.y_proj.fc1", dim, text_dim) | _linear("y_embedder.y_proj.fc2", dim, dim)
    for name in ("csize_embedder", "ar_embedder") if sizes else ():
        shapes |= _linear(f"{name}.mlp.0", dim // 3, 256) | _linear(f"{name}.mlp.2", dim // 3, dim // 3)
    for i in range(depth):
        shapes |= {f"blocks.{i}.scale_shift_table": (6, dim)}
        shapes |= _linear(f"blocks.{i}.cross_attn.q_linear", dim, dim)
        shapes |= _linear(f"blocks.{i}.cross_attn.kv_linear", 2 * dim, dim)
        shapes |= _linear(f"blocks.{i}.cross_attn.proj", dim, dim)
    return shapes


def dit_shapes(
    *, dim: int = 1152, depth: int = 28, side: int = 16, classes: int = 1000, patch: int = 2, channels: int = 4
) -> Shapes:
    """A DiT .pt."""
    shapes = _trunk(dim, depth, side * side, patch, channels, 4 * dim, 2 * channels)
    shapes |= {"y_embedder.embedding_table.weight": (classes + 1, dim)}
    shapes |= _linear("final_layer.adaLN_modulation.1", 2 * dim, dim)
    for i in range(depth):
        shapes |= _linear(f"blocks.{i}.adaLN_modulation.1", 6 * dim, dim)
    return shapes


def positions(dim: int, side: int, scale: float) -> Tensor:
    """(1, side * side, dim): sines, then cosines, of the column, and after them of the row."""
    places = np.arange(side, dtype=np.float32) / np.float32(scale)
    angles = places.astype(np.float64)[:, None] / 10000 ** (np.arange(dim // 4) / (dim / 4))
    axis = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    grid = np.concatenate([np.tile(axis, (side, 1)), np.repeat(axis, side, axis=0)], axis=1)
    return torch.from_numpy(grid).float()[None]


def fill(
    shapes: Mapping[str, tuple[int, ...]], *, scale: float = 1.0, seed: int = 0, std: float = 0.1
) -> dict[str, Tensor]:
    """Random numbers of those shapes, positions excepted."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(shape, generator=generator) * std for name, shape in shapes.items()}
    _, tokens, dim = shapes["pos_embed"]
    return tensors | {"pos_embed": positions(dim, round(tokens**0.5), scale)}


def empty(shapes: Mapping[str, tuple[int, ...]], *, scale: float = 1.0) -> dict[str, Tensor]:
    """The same without memory, positions excepted."""
    _, tokens, dim = shapes["pos_embed"]
    held = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    return held | {"pos_embed": positions(dim, round(tokens**0.5), scale)}
