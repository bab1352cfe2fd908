"""Which shapes a run's blocks are compiled for, and with which micro-batches before the first step."""

import torch

from pixart.config import Config
from pixart.data.buckets import buckets_for
from pixart.data.cuts import cuts
from pixart.models.attention import usable


def has_static_shapes(config: Config, device: torch.device) -> bool:
    """Whether training's graph is made for the run's one shape: on a GPU, where all images are the one square.

    xformers' masks hold the length of the longest caption, which would be a constant of such a graph too.
    """
    shapes = [(bucket.height, bucket.width) for bucket in buckets_for(config.resolution, config.data.buckets)]
    one = shapes == [(config.resolution, config.resolution)]
    return one and device.type == "cuda" and usable(config.model.attention, device.type) == "sdpa"


def rehearsed(config: Config, device: torch.device, *, processes: int) -> tuple[int, ...]:
    """Images of each micro-batch to rehearse with, on every rank the same.

    With static shapes they are the run's own. Where shapes are symbols two images do: no other size is as small, and
    equal ones would be taken for the same.
    """
    if not has_static_shapes(config, device):
        return (min(2, config.micro_batch),)
    asked = {"micro_batch": config.micro_batch, "world_size": processes, "k": 0}
    mine = (cuts(config.global_batch, rank=rank, **asked) for rank in range(processes))
    return tuple(sorted({cut.stop - cut.start for each in mine for cut in each}))
