"""One pass that teaches nothing, so that what is compiled is compiled for the same sizes whenever a run begins."""

from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pixart.batch import Conditioning, places_of
from pixart.training.processes.sharding import is_sharded, unsynced
from pixart.training.processes.stopping import children_spared


def rehearse(accelerator: Accelerator, model: nn.Module, bare: nn.Module, *, images: int, tokens: int) -> None:
    """Forward and backward of made-up inputs; their gradients are thrown away.

    A graph serves all sizes, but its kernels are made with the first ones in mind and may sum in another order than
    those made for others. A resumed run begins with another bucket than a new one, and is to make the same steps.

    Args:
        model: the training model; ``bare`` is the same without wrappers, with the attribute ``config`` of a ``PixArt``.
        images: N; to torch a size of 1 is another graph.
        tokens: L, the longest caption's length.
    """
    config: Any = bare.config
    with children_spared(), nullcontext() if is_sharded(bare) else unsynced(accelerator, model):
        model(*_made_up(config, images, tokens, accelerator.device)).square().mean().backward()
    for parameter in bare.parameters():
        parameter.grad = None
    if accelerator.device.type == "cuda":  # no step of the run: its peak is not the log's
        torch.cuda.reset_peak_memory_stats(accelerator.device)


def _made_up(
    config: dict[str, Any], images: int, tokens: int, device: torch.device
) -> tuple[Tensor, Tensor, Conditioning]:
    """Inputs of as many different sizes as there are, for equal ones would be taken for one and the same."""
    side, cond = config["input_size"], Conditioning()
    if config["text_dim"] is not None:
        lengths = tokens - torch.arange(images) * (tokens - 1) // max(1, images - 1)  # from all down to one
        mask = torch.arange(tokens) < lengths[:, None]  # (N, L)
        text = torch.zeros(images, tokens, config["text_dim"])
        cond = cond._replace(tokens=text, mask=mask, places=places_of(mask))
    if config["num_classes"] is not None:
        cond = cond._replace(label=torch.zeros(images, dtype=torch.int64))
    if config["size_conditioning"]:
        cond = cond._replace(size=torch.full((images, 2), 256.0), aspect_ratio=torch.ones(images, 1))
    x_t = torch.zeros(images, config["in_channels"], side, side, device=device)
    return x_t, torch.zeros(images, device=device), cond.to(device)
