import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pixart.models.dit import PixArt
from pixart.models.initialise import initialise, spread_embedders


@pytest.fixture(scope="module")
def wide(small: Callable[..., PixArt]) -> dict[str, Tensor]:
    """Wide enough for statistics, with every kind of tensor but per-block adaLN."""
    model = small(dim=192, text_dim=96, num_classes=50, size_conditioning=True, depth=1)
    return dict(model.named_parameters())


@pytest.mark.parametrize(
    "name",
    [
        "blocks.0.cross_attn.proj.weight",
        "blocks.0.cross_attn.proj.bias",
        "final_layer.linear.weight",
        "final_layer.linear.bias",
        "blocks.0.attn.qkv.bias",
        "t_embedder.mlp.0.bias",
        "y_embedder.y_proj.fc1.bias",
        "t_block.1.bias",
    ],
)
def test_starts_at_zero(wide, name):
    assert wide[name].abs().max() == 0


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("t_embedder.mlp.0.weight", 0.02),
        ("t_embedder.mlp.2.weight", 0.02),
        ("t_block.1.weight", 0.02),
        ("csize_embedder.mlp.0.weight", 0.02),
        ("ar_embedder.mlp.2.weight", 0.02),
        ("y_embedder.y_proj.fc1.weight", 0.02),
        ("y_embedder.y_proj.fc2.weight", 0.02),
        ("y_embedder.embedding_table.weight", 0.02),
        ("blocks.0.scale_shift_table", 192**-0.5),
    ],
)
def test_is_normal_with_that_spread(wide, name, std):
    assert abs(wide[name].std().item() / std - 1) < 0.08
    assert wide[name].abs().max() > 2.2 * std  # a normal reaches beyond a uniform of that spread


@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [
        ("blocks.0.attn.qkv.weight", 576, 192),  # one matrix, not three
        ("blocks.0.cross_attn.kv_linear.weight", 384, 192),
        ("blocks.0.mlp.fc1.weight", 768, 192),
        ("x_embedder.proj.weight", 192, 16),  # the convolution flattened
    ],
)
def test_is_xavier_uniform(wide, name, rows, columns):
    bound = math.sqrt(6 / (rows + columns))
    assert 0.97 * bound < wide[name].abs().max() <= bound
    assert abs(wide[name].std().item() * math.sqrt(3) / bound - 1) < 0.05


def test_patch_bias_keeps_the_default_of_a_convolution_plus_minus_a_quarter(wide):
    assert 0.22 < wide["x_embedder.proj.bias"].abs().max() <= 0.25


def test_per_block_modulation_starts_at_zero(small):
    weights = small(adaln="per_block").state_dict()
    assert all(tensor.abs().max() == 0 for name, tensor in weights.items() if "adaLN_modulation" in name)


def test_one_seed_gives_one_set_of_weights_whatever_was_drawn_before_or_built_beside(small):
    torch.manual_seed(5)
    first = small().state_dict()
    torch.rand(17)
    larger = small(size_conditioning=True, depth=3).state_dict()
    assert all(torch.equal(larger[name], tensor) for name, tensor in first.items())
    torch.manual_seed(6)
    assert not torch.equal(small().state_dict()["x_embedder.proj.weight"], first["x_embedder.proj.weight"])


def test_no_two_tensors_of_one_shape_are_alike(small):
    weights = small().state_dict()
    assert not torch.equal(weights["blocks.0.attn.qkv.weight"], weights["blocks.1.attn.qkv.weight"])


def test_building_a_model_takes_nothing_from_the_global_stream(small):
    before = torch.get_rng_state()
    small()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_on_the_meta_device_is_left_without_weights(small):
    with torch.device("meta"):
        model = small()
    initialise(model, 0)
    assert all(parameter.is_meta for parameter in model.parameters())


def test_a_wider_spread_multiplies_the_embedders_and_nothing_else(small):
    before = {name: p.detach().clone() for name, p in small(text_dim=8, size_conditioning=True).named_parameters()}
    model = small(text_dim=8, size_conditioning=True)
    spread_embedders(model, 0.1)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    for name in changed:
        torch.testing.assert_close(dict(model.named_parameters())[name], before[name] * 5)
    assert {"t_block.1.weight", "y_embedder.y_proj.fc1.weight", "csize_embedder.mlp.2.weight"} <= changed
    assert not any(name.startswith(("blocks.", "final_layer.", "x_embedder.")) for name in changed)
