"""Pre-training of the packaged autoencoder: an ``AutoencoderKL`` in miniature that knows coloured shapes."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pixart.data.embedded.captions import target_of
from pixart.data.embedded.shapes import Shapes, View
from pixart.metrics.alignment import score
from pixart.muon import Muon


class Size(NamedTuple):
    """The shape of an ``AutoencoderKL``: channels at each of its resolutions, each half of the one before."""

    channels: tuple[int, ...]
    latent_channels: int
    norm_groups: int


class Training(NamedTuple):
    """How it is trained: |x - x'| + (x - x')^2 + a weight times the divergence of a latent number, in nats.

    The weight starts at ``kl_start`` and rises to ``kl_weight`` while the share of the steps done goes through
    ``kl_ramp``: a large one from the start drowns latents before they say anything.
    """

    seed: int
    steps: int
    batch_size: int
    pictures: tuple[tuple[View, int, int], ...]  # (view, height, width) of the batches, in turn
    kl_start: float
    kl_weight: float
    kl_ramp: tuple[float, float]
    lr: float
    matrix_lr: float
    warmup_steps: int
    clip: float


class Quality(NamedTuple):
    """What comes back of held-out scenes through the means of their posteriors."""

    psnr: float  # decibels
    right: float  # share that the detector still reads as what they show
    kl: float  # nats for each latent number


def make_autoencoder(size: Size, seed: int) -> Any:
    """A fresh diffusers ``AutoencoderKL`` with weights of ``seed``."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    depth = len(size.channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        block_out_channels=size.channels,
        layers_per_block=1,
        latent_channels=size.latent_channels,
        norm_num_groups=size.norm_groups,
        mid_block_add_attention=False,
    )


def pictures(view: View, height: int, width: int, rows: range, *, split: Any, seed: int) -> tuple[Tensor, Shapes]:
    """Scenes of ``rows``, (N, 3, height, width) in [-1, 1], and the source that drew them."""
    source = Shapes(
        view, split, num_samples=rows.stop, resolution=height, sizes=[(height, width)], density="dense", seed=seed
    )
    images = np.stack([image for row in rows if (image := source.read(row).image) is not None])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1, source


def kl_weight(how: Training, step: int) -> float:
    """The weight of the divergence at a step: each stretch of the ramp multiplies it by as much.

    KL annealing (arXiv 1511.06349, section 3.1), which there goes along a sigmoid.
    """
    begin, end = how.kl_ramp
    risen = min(1.0, max(0.0, (step / how.steps - begin) / (end - begin)))
    return float(how.kl_start ** (1 - risen) * how.kl_weight**risen)


def pretrain(model: Any, how: Training, *, progress: Callable[[int, float, float], None]) -> None:
    """Trains ``model`` in place; step k sees rows k * batch_size to (k + 1) * batch_size of one view and size.

    ``progress`` is called with the step, the mean absolute error and the divergence (nats a latent number) after each.
    """
    optimizer = _optimizer(model, how)
    generator = torch.Generator().manual_seed(how.seed)
    model.train()
    for step in range(how.steps):
        share = min(1.0, (step + 1) / how.warmup_steps) * (1 - step / how.steps)
        for group in optimizer.param_groups:
            group["lr"] = share * group["peak"]
        view, height, width = how.pictures[step % len(how.pictures)]
        rows = range(step * how.batch_size, (step + 1) * how.batch_size)
        images, _ = pictures(view, height, width, rows, split="train", seed=how.seed)
        posterior = model.encode(images).latent_dist
        error = model.decode(posterior.sample(generator=generator)).sample - images  # (N, 3, height, width)
        kl = posterior.kl().sum() / posterior.mean.numel()
        (error.abs().mean() + error.square().mean() + kl_weight(how, step) * kl).backward()
        nn.utils.clip_grad_norm_(model.parameters(), how.clip)
        optimizer.step()
        optimizer.zero_grad()
        progress(step, error.abs().mean().item(), kl.item())
    model.eval()


def _optimizer(model: nn.Module, how: Training) -> Muon:
    """Muon for the kernels between its ends, AdamW for the rest."""
    ends = ("encoder.conv_in", "decoder.conv_out", "quant_conv", "post_quant_conv")
    kernels = [p for name, p in model.named_parameters() if p.ndim == 4 and not name.startswith(ends)]
    inner = {id(p) for p in kernels}
    rest = [p for p in model.parameters() if id(p) not in inner]
    groups = [
        {"params": kernels, "peak": how.matrix_lr, "matrices": True, "momentum": 0.95, "weight_decay": 0.0},
        {"params": rest, "peak": how.lr, "matrices": False, "weight_decay": 0.0},
    ]
    return Muon(groups, lr=how.lr, betas=(0.9, 0.99), fused=True)


@torch.no_grad()
def set_scale(model: Any, how: Training, count: int) -> None:
    """Write the scale and shift of its latents on ``count`` scenes of each kind into the config of ``model``."""
    drawn = []
    for view, height, width in dict.fromkeys(how.pictures):
        images, _ = pictures(view, height, width, range(count), split="train", seed=how.seed)
        drawn.append(model.encode(images).latent_dist.mean.flatten())
    latents = torch.cat(drawn)
    model.register_to_config(scaling_factor=round(1 / latents.std().item(), 6), shift_factor=latents.mean().item())


@torch.no_grad()
def quality(model: Any, kind: tuple[View, int, int], count: int, seed: int) -> Quality:
    """What ``model`` gives back of ``count`` held-out scenes."""
    view, height, width = kind
    images, source = pictures(view, height, width, range(count), split="validation", seed=seed)
    posterior = model.encode(images).latent_dist
    back = model.decode(posterior.mean).sample.clamp(-1, 1)
    error = (back - images).square().mean().item()
    shown = ((back + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    targets = [target_of(source.scene(row), full=False) for row in range(count)]
    kl = posterior.kl().sum().item() / posterior.mean.numel()
    return Quality(10 * math.log10(4 / error), score(list(shown), targets).overall, kl)


def save(model: Any, folder: Path) -> None:
    """Writes it in float32, as diffusers reads it."""
    model.save_pretrained(folder)
