"""Small models to store and to hand from stage to stage."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pixart.models.dit import PixArt

SMALL: dict[str, Any] = {
    "input_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 8,
    "dim": 48,
    "depth": 2,
    "num_heads": 4,
    "mlp_ratio": 4.0,
    "text_dim": 20,
    "num_classes": None,
    "size_conditioning": False,
    "adaln": "single",
    "interpolation_scale": 1.0,
    "attention": "sdpa",
    "fp32_attention": False,
    "checkpointing": "none",
}


@pytest.fixture(scope="session")
def small() -> Callable[..., PixArt]:
    """``small(**changes)``: as initialised, in evaluation mode."""
    return lambda **changes: PixArt(**{**SMALL, **changes}).eval()


@pytest.fixture(scope="session")
def trained(small: Callable[..., PixArt]) -> Callable[..., PixArt]:
    """``trained(**changes)``: the same with random numbers in every tensor, as training would leave it."""

    def build(**changes: Any) -> PixArt:
        model, generator = small(**changes), torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.0, 0.1, generator=generator)
        return model

    return build
