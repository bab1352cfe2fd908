"""Our tensors under the names that diffusers' ``PixArtTransformer2DModel`` gives them, and back.

diffusers keeps apart what we hold as one matrix: queries, keys and values are equal shares of its rows, in that order.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

TRUNK = {
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "adaln_single.emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "adaln_single.emb.timestep_embedder.linear_2",
    "csize_embedder.mlp.0": "adaln_single.emb.resolution_embedder.linear_1",
    "csize_embedder.mlp.2": "adaln_single.emb.resolution_embedder.linear_2",
    "ar_embedder.mlp.0": "adaln_single.emb.aspect_ratio_embedder.linear_1",
    "ar_embedder.mlp.2": "adaln_single.emb.aspect_ratio_embedder.linear_2",
    "t_block.1": "adaln_single.linear",
    "y_embedder.y_proj.fc1": "caption_projection.linear_1",
    "y_embedder.y_proj.fc2": "caption_projection.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer": "",  # its table stands at the top
}
BLOCK = {
    "attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attn.proj": ("attn1.to_out.0",),
    "cross_attn.q_linear": ("attn2.to_q",),
    "cross_attn.kv_linear": ("attn2.to_k", "attn2.to_v"),
    "cross_attn.proj": ("attn2.to_out.0",),
    "mlp.fc1": ("ff.net.0.proj",),
    "mlp.fc2": ("ff.net.2",),
    "": ("",),  # the block's own table
}


def theirs(name: str) -> tuple[str, ...]:
    """The names in diffusers of one of our tensors; ``KeyError`` for one that it has no place for."""
    module, _, kind = name.rpartition(".")
    if not module.startswith("blocks."):
        return (f"{TRUNK[module]}.{kind}".lstrip("."),)
    _, number, *inner = module.split(".", 2)
    places = (f"transformer_blocks.{number}.{place}" for place in BLOCK[inner[0] if inner else ""])
    return tuple(f"{place.rstrip('.')}.{kind}" for place in places)


def split(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors as theirs: views of ours."""
    return {
        new: part
        for name, tensor in tensors.items()
        for new, part in zip(theirs(name), tensor.chunk(len(theirs(name))), strict=True)
    }


def join(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors as ours, for the names in ``wanted``."""
    return {name: _whole([tensors[part] for part in theirs(name)]) for name in wanted}


def _whole(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
