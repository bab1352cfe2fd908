"""Published and derived numbers of XL/2: parameters by part, multiplications per forward."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pixart.batch import Conditioning
from pixart.models.dit import PixArt

XL_2 = {"dim": 1152, "depth": 28, "num_heads": 16, "text_dim": 4096, "input_size": 32}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def xl_2(small):
    def build(**changes) -> PixArt:
        with torch.device("meta"):
            return small(**{**XL_2, **changes})

    return build


def test_the_parts_of_610_856_096_parameters(xl_2):
    model = xl_2()
    assert count(model.blocks[0]) == 21_255_552
    assert count(model.blocks) == 595_155_456
    assert count(model.x_embedder) == 19_584
    assert count(model.t_embedder) == 1_624_320
    assert count(model.t_block) == 7_969_536
    assert count(model.y_embedder.y_proj) == 6_048_000
    assert count(model.final_layer) == 39_200
    assert count(model) == 610_856_096


def test_size_conditioning_adds_twice_246_528(xl_2):
    model = xl_2(size_conditioning=True)
    assert (count(model.csize_embedder), count(model.ar_embedder)) == (246_528, 246_528)
    assert count(model) == 611_349_152


def test_dit_has_23_905_152_a_block_and_675_129_632_with_its_stored_positions(xl_2):
    model = xl_2(text_dim=None, num_classes=1000, adaln="per_block")
    assert count(model.blocks[0]) == 23_905_152
    assert count(model) == 674_834_720
    assert count(model) + 16 * 16 * 1152 == 675_129_632
    assert sum(count(block.adaLN_modulation) for block in model.blocks) == 223_147_008


def test_one_modulation_a_block_beside_cross_attention_would_take_828_494_240_and_sharing_it_saves_a_quarter(xl_2):
    per_block = count(xl_2(adaln="per_block"))
    assert per_block == 828_494_240
    assert count(xl_2()) / per_block == pytest.approx(0.737, abs=1e-3)


def test_a_modulation_a_block_is_33_1_percent_of_dit_and_26_9_of_it_with_cross_attention(xl_2):
    """The paper's 27 % and 833 M: the second with one more linear layer, from text to the modulation."""
    modulations = 223_147_008
    assert modulations / count(xl_2(text_dim=None, num_classes=1000, adaln="per_block")) == pytest.approx(
        0.331, abs=5e-4
    )
    with_text = count(xl_2(adaln="per_block"))
    assert modulations / with_text == pytest.approx(0.269, abs=5e-4)
    assert with_text + count(nn.Linear(4096, 1152)) == 833_213_984


def test_labels_with_one_shared_modulation_take_457_196_576(xl_2):
    assert count(xl_2(text_dim=None, num_classes=1000)) == 457_196_576


@pytest.mark.parametrize(("side", "giga"), [(32, 149), (64, 617), (128, 3250)])
def test_a_forward_takes_149_617_and_3250_billion_multiplications(xl_2, side, giga):
    model = xl_2(input_size=side)
    with torch.device("meta"):
        cond = Conditioning(tokens=torch.empty(1, 120, 4096), mask=torch.empty(1, 120, dtype=torch.bool))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, 4, side, side), torch.empty(1), cond)
    assert counter.get_total_flops() / 2e9 == pytest.approx(giga, rel=0.01)
