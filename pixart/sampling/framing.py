"""The size that a picture is drawn at, and the way back to the size that was asked for."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pixart.data.buckets import assign, official_bins
from pixart.sampling.request import Size

Binning = Literal["none", "official"]

_TABLE_STEP = 256  # the official sizes are for multiples of it


def drawn_size(size: Size, *, binning: Binning, resolution: int) -> Size:
    """(height, width) in pixels at which a picture of ``size`` is drawn.

    Args:
        size: what is asked for.
        binning: ``none`` draws it as it is; ``official`` at the inference size whose two-decimal height / width is
            nearest to its own.
        resolution: side of the square that the model is for.

    Raises:
        ValueError: no such binning, no official sizes for the model, a size that is no size.
    """
    if binning == "none":
        return size
    if binning != "official":
        raise ValueError(f"binning: '{binning}' is not one of none, official")
    if resolution % _TABLE_STEP:
        raise ValueError(
            f"binning: 'official' has sizes for models of 256, 512 and 1024 pixels and this one is of {resolution}; "
            f"set binning=none"
        )
    height, width = size
    if min(size) < 1:
        raise ValueError(f"size {height} x {width}: both sides must be at least 1 pixel")
    bins = official_bins(resolution)
    return bins[assign(np.array([height]), np.array([width]), buckets=bins, distance="linear")[0]]


def crop_back(images: Tensor, size: Size) -> Tensor:
    """``images`` (N, 3, h, w) enlarged or reduced until they cover ``size``, then cropped to it around the centre."""
    height, width = size
    drawn_height, drawn_width = images.shape[2:]
    if (drawn_height, drawn_width) == (height, width):
        return images
    # Whole numbers throughout: a quotient of floats can fall a pixel short of the size it came from.
    if height * drawn_width >= width * drawn_height:
        cover = (height, drawn_width * height // drawn_height)
    else:
        cover = (drawn_height * width // drawn_width, width)
    images = torch.nn.functional.interpolate(images, size=cover, mode="bilinear", align_corners=False)
    top, left = (cover[0] - height) // 2, (cover[1] - width) // 2
    return images[:, :, top : top + height, left : left + width]
