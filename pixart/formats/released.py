"""What is known of the released models and cannot be read off their tensors."""

import re
from pathlib import Path
from typing import Any

DIT_LICENCE = "CC-BY-NC-4.0"  # of Meta's DiT weights, and so of all that is made from them

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # by width: DiT's S, B, L and XL, and PixArt's XL
INTERPOLATION = {32: 1.0, 64: 1.0, 128: 2.0}  # by input size: PixArt-alpha at 256, 512 and 1024 px
CAPTION_TOKENS = 120
STRIDE = 8  # pixels a latent cell: Stable Diffusion's autoencoder
HABITS = ("dpm_solver", 20, 4.5)  # scheduler, steps and guidance scale of the official sampler's defaults
DISTILLED_HABITS = ("lcm", 4, 1.0)  # the same for PixArt-LCM
OBJECTIVE: dict[str, Any] = {  # what the released PixArt and DiT models predict
    "num_timesteps": 1000,
    "schedule": "linear",
    "prediction": "eps",
    "learned_variance": True,
    "weighting": "none",
    "weighting_gamma": 5.0,
    "time_sampling": "uniform",
}


def pixels_in_name(path: Path) -> int | None:
    """The resolution in the name of a released file (PixArt-XL-2-1024-MS.pth, DiT-XL-2-512x512.pt), else None."""
    match = re.match(r"(?:PixArt|DiT)-XL-2-(?:SAM-)?(256|512|1024)(?!\d)", path.name)
    return int(match[1]) if match else None
