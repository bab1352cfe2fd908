"""At paper scale every stage builds its exact XL/2 and can take a step."""

import pytest
import torch
from miniature import composed

from pixart.batch import Conditioning
from pixart.build import parts
from pixart.config import Config, parse
from pixart.models.dit import PixArt

COUNTS = [
    (["+stage=1"], 457_196_576),
    (["+stage=1", "model.adaln=per_block"], 674_834_720),
    (["+stage=2"], 610_856_096),
    (["+stage=3"], 611_349_152),
    (["+stage=3", "resolution=512"], 611_349_152),
    (["+stage=3", "resolution=256"], 610_856_096),
]


def paper(*overrides: str) -> Config:
    return parse(composed(*overrides, "data.root=unused"), Config)


def words_for(config: Config, count: int) -> Conditioning:
    """Random conditioning of the kinds that the model takes."""
    size = torch.full((count, 2), 1024.0) if config.model.size_conditioning else None
    ratio = torch.ones(count, 1) if config.model.size_conditioning else None
    if config.text_encoder is None:
        return Conditioning(label=torch.arange(count), size=size, aspect_ratio=ratio)
    length, width = config.text_encoder.max_tokens, config.text_encoder.dim
    mask = torch.arange(length)[None] < torch.tensor([[7], [length]])
    return Conditioning(tokens=torch.randn(count, length, width), mask=mask, size=size, aspect_ratio=ratio)


def step(model: PixArt, config: Config, side: int) -> torch.Tensor:
    """One forward, loss and backward of the run's own objective on latents of ``side``."""
    objective = parts.objective(config)
    x0, noise = torch.randn(2, 2, config.autoencoder.channels, side, side)
    t = torch.tensor([3, 700])
    x_t = objective.add_noise(x0, noise, t)
    output = model(x_t, t, words_for(config, 2))
    loss = objective.losses(output, x0=x0, noise=noise, x_t=x_t, t=t).loss.mean()
    loss.backward()
    return loss


@pytest.mark.parametrize(("overrides", "count"), COUNTS)
def test_each_stage_has_the_papers_count_of_parameters(overrides: list[str], count: int) -> None:
    with torch.device("meta"):
        model = parts.model(paper(*overrides))
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("overrides", [overrides for overrides, _ in COUNTS])
def test_each_stage_takes_a_step_on_the_meta_device(overrides: list[str]) -> None:
    config = paper(*overrides)
    with torch.device("meta"):
        model = parts.model(config).train()
        output = model(
            torch.empty(2, 4, config.input_size, config.input_size), torch.zeros(2), words_for(config, 2).to("meta")
        )
        output.sum().backward()
    assert output.shape == (2, 8, config.input_size, config.input_size)
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("overrides", [["+stage=1"], ["+stage=2"], ["+stage=3"]])
def test_two_blocks_at_full_width_take_a_step_with_finite_gradients(overrides: list[str]) -> None:
    config = paper(*overrides, "model.depth=2")
    model = parts.model(config).train()
    loss = step(model, config, side=8)
    # A fresh model predicts zero noise: the squared error is 1, and the bound adds little.
    assert 0.9 < loss.item() < 1.6
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert all(g is not None and torch.isfinite(g).all() for g in gradients.values())
    head = gradients["final_layer.linear.weight"]
    assert head is not None
    assert head.abs().max() > 0
