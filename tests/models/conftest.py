"""Small models with weights in every tensor, and conditionings that fit them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pixart.batch import Conditioning
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
    """``small(**changes)``: two blocks of width 48, in evaluation mode, as initialised."""
    return lambda **changes: PixArt(**{**SMALL, **changes}).eval()


@pytest.fixture(scope="session")
def randomise() -> Callable[..., Any]:
    """``randomise(model)``: the same model with every parameter drawn from a normal, none of them zero."""

    def fill(model: nn.Module, std: float = 0.1) -> nn.Module:
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.0, std, generator=generator)
        return model

    return fill


@pytest.fixture
def x_t() -> Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def t() -> Tensor:
    return torch.tensor([3, 801])


@pytest.fixture
def captioned() -> Conditioning:
    """Two captions of 6 and 3 tokens, padded to 6, with sizes and aspect ratios."""
    tokens = torch.randn(2, 6, 20, generator=torch.Generator().manual_seed(2))
    mask = torch.arange(6) < torch.tensor([[6], [3]])
    size = torch.tensor([[512.0, 768.0], [1024.0, 300.0]])
    return Conditioning(tokens=tokens, mask=mask, size=size, aspect_ratio=size[:, :1] / size[:, 1:])
