"""The borders of autocast, and how the rest is multiplied."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from fnmatch import fnmatch

import torch
from torch import nn

INSIDE = ("y_embedder.y_proj.*", "blocks.*attn.*", "blocks.*.mlp.*")  # layers that autocast reaches


def as_given(device: torch.device) -> AbstractContextManager[object]:
    """Inside, autocast leaves precisions as they are; the meta device knows no autocast."""
    if device.type == "meta":
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


@contextmanager
def in_tf32(wanted: bool) -> Iterator[None]:
    """Inside, a GPU multiplies fp32 matrices in TF32, or does not; afterwards as before."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = wanted
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


def halve(model: nn.Module, dtype: torch.dtype) -> None:
    """Keep in ``dtype`` those weights of a ``PixArt`` that autocast to it would round at every use.

    Under that autocast the results are the same to the bit, from about half the memory.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and any(fnmatch(name, pattern) for pattern in INSIDE):
            module.to(dtype)
