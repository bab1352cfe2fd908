"""First weights, as PixArt (and, for labels and per-block adaLN, DiT) draws them.

Each tensor depends on the seed, its name and its shape alone: not on the order of construction, not on what else the
model holds, not on the device. Two models of one seed agree wherever they have the same tensor.
"""

import hashlib
import math
from collections.abc import Callable
from fnmatch import fnmatch

import torch
from torch import Tensor, nn

Fill = Callable[[Tensor, torch.Generator], Tensor]

EMBEDDER_STD = 0.02


def _zero(x: Tensor, _: torch.Generator) -> Tensor:
    return x.zero_()


def _small(x: Tensor, generator: torch.Generator) -> Tensor:
    return x.normal_(0.0, EMBEDDER_STD, generator=generator)


def _per_width(x: Tensor, generator: torch.Generator) -> Tensor:
    return x.normal_(0.0, x.shape[-1] ** -0.5, generator=generator)


def _xavier(x: Tensor, generator: torch.Generator) -> Tensor:
    """As one matrix, whatever it fuses: the patch convolution, queries with keys and values."""
    bound = math.sqrt(6.0 / (x.shape[0] + x[0].numel()))
    return x.uniform_(-bound, bound, generator=generator)


RULES: tuple[tuple[str, Fill], ...] = (  # the first that fits the name
    ("blocks.*.cross_attn.proj.*", _zero),
    ("final_layer.linear.*", _zero),
    ("*adaLN_modulation.1.*", _zero),
    ("*.bias", _zero),
    ("*scale_shift_table", _per_width),
    ("?_embedder.mlp.*", _small),
    ("csize_embedder.mlp.*", _small),
    ("ar_embedder.mlp.*", _small),
    ("t_block.1.weight", _small),
    ("y_embedder.*", _small),
    ("*.weight", _xavier),
)


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest, "big") >> 1)


def _fill(name: str) -> Fill:
    return next(fill for pattern, fill in RULES if fnmatch(name, pattern))


def _draw(name: str, like: Tensor, patch_fan_in: int, seed: int) -> Tensor:
    generator, x = _generator(seed, name), torch.empty(like.shape, dtype=torch.float32, device="cpu")
    if name == "x_embedder.proj.bias":  # the one bias that PixArt leaves as PyTorch draws it; DiT zeroes it
        return x.uniform_(-(patch_fan_in**-0.5), patch_fan_in**-0.5, generator=generator)
    return _fill(name)(x, generator)


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """Draw every parameter of a ``PixArt`` anew; tensors on the meta device are left alone."""
    parameters = dict(model.named_parameters())
    patch_fan_in = parameters["x_embedder.proj.weight"][0].numel()
    for name, parameter in parameters.items():
        if not parameter.is_meta:
            parameter.copy_(_draw(name, parameter, patch_fan_in, seed))


@torch.no_grad()
def spread_embedders(model: nn.Module, std: float) -> None:
    """Let the fresh embedders of a ``PixArt`` (time, text, label, size) start as N(0, ``std``) instead of N(0, 0.02).

    0.02 is right at XL width; the signal of a model with an eighth of the width dies out in two such layers.
    """
    for name, parameter in model.named_parameters():
        if name != "x_embedder.proj.bias" and _fill(name) is _small:
            parameter.mul_(std / EMBEDDER_STD)
