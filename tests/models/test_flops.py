"""Operations by formula are those that torch counts, and those published."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pixart.batch import Conditioning
from pixart.models.dit import PixArt
from pixart.models.flops import forward_flops, products_of_drawing, training_flops

XL_2 = {"dim": 1152, "depth": 28, "num_heads": 16, "text_dim": 4096, "input_size": 32}


def counted(model: PixArt, images: int, side: int, length: int, *, backward: bool) -> int:
    """By torch, with attention as plain products: its fused kernels compute the scores again in the backward pass."""
    cond = Conditioning(
        tokens=torch.randn(images, length, model.config["text_dim"]) if model.config["text_dim"] else None,
        mask=torch.ones(images, length, dtype=torch.bool) if model.config["text_dim"] else None,
        size=torch.ones(images, 2),
        aspect_ratio=torch.ones(images, 1),
        label=torch.zeros(images, dtype=torch.long) if model.config["num_classes"] else None,
    )
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        output = model(torch.randn(images, 4, side, side), torch.arange(images), cond)
        if backward:
            output.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(
    ("changes", "side", "length"),
    [
        ({}, 16, 6),
        ({"size_conditioning": True, "dim": 96}, 12, 40),
        ({"adaln": "per_block", "depth": 3}, 8, 6),
        ({"text_dim": None, "num_classes": 5}, 16, 0),
        ({"mlp_ratio": 2.5, "patch_size": 4}, 16, 11),
        ({"dim": 144, "num_heads": 2, "text_dim": 300}, 32, 20),
    ],
)
def test_the_formula_is_within_1_percent_of_torch_s_counter(small, changes, side, length, backward):
    model = small(**changes)
    count = training_flops if backward else forward_flops
    tokens = (side // model.patch_size) ** 2
    formula = count(model.config, images=2, image_tokens=tokens, text_tokens=2 * length)
    assert formula == pytest.approx(counted(model, 2, side, length, backward=backward), rel=0.01)


@pytest.mark.parametrize(("pixels", "giga"), [(256, 149), (512, 618), (1024, 3255)])
def test_xl_2_multiplies_149_618_and_3255_billion_times_for_an_image_of_120_tokens(small, pixels, giga):
    with torch.device("meta"):
        config = small(**XL_2).config
    flops = forward_flops(config, images=1, image_tokens=(pixels // 16) ** 2, text_tokens=120)
    assert flops / 2e9 == pytest.approx(giga, rel=0.01)


def test_60_real_tokens_of_120_save_4_percent_at_256_pixels(small):
    with torch.device("meta"):
        config = small(**XL_2).config
    real, padded = (training_flops(config, images=4, image_tokens=256, text_tokens=4 * n) for n in (60, 120))
    assert 1 - real / padded == pytest.approx(0.04, abs=0.003)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_drawing_needs_what_torch_counts_of_one_that_prepares_its_captions(small, steps):
    model = small(dim=144, num_heads=2, text_dim=300, size_conditioning=False).eval()
    images, side, length = 2, 16, 20
    cond = Conditioning(tokens=torch.randn(images, length, 300), mask=torch.ones(images, length, dtype=torch.bool))
    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        prepared = model.prepare(cond, torch.arange(steps), (side, side))
        for step in range(steps):
            model(torch.randn(images, 4, side, side), torch.full((images,), step), prepared.at(step))
    tokens = (side // model.patch_size) ** 2
    needed = products_of_drawing(model.config, images, tokens, images * length, steps=steps)
    assert sum(product.forward_flops for product in needed) == pytest.approx(counter.get_total_flops(), rel=0.01)
