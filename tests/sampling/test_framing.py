"""Binning and the crop back, against diffusers' own."""

import pytest
import torch
from diffusers.image_processor import PixArtImageProcessor
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import ASPECT_RATIO_256_BIN, ASPECT_RATIO_1024_BIN

from pixart.sampling.framing import crop_back, drawn_size

ASKED = [(1000, 1000), (600, 1400), (720, 1280), (2000, 500), (333, 777), (1, 9), (900, 100), (1024, 960)]


@pytest.mark.parametrize("size", ASKED)
def test_each_of_8_sizes_is_drawn_where_diffusers_draws_it(size: tuple[int, int]) -> None:
    for resolution, table in ((1024, ASPECT_RATIO_1024_BIN), (256, ASPECT_RATIO_256_BIN)):
        theirs = PixArtImageProcessor.classify_height_width_bin(*size, ratios=table)
        assert drawn_size(size, binning="official", resolution=resolution) == theirs
    assert drawn_size(size, binning="none", resolution=1024) == size


@pytest.mark.parametrize(("drawn", "asked"), [((12, 8), (10, 10)), ((8, 12), (16, 20)), ((9, 7), (5, 3))])
def test_the_crop_back_equals_diffusers_to_1e_minus_6(drawn: tuple[int, int], asked: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *drawn, generator=torch.Generator().manual_seed(0)) * 2 - 1
    theirs = PixArtImageProcessor.resize_and_crop_tensor(images, asked[1], asked[0])
    torch.testing.assert_close(crop_back(images, asked), theirs, rtol=0, atol=1e-6)


def test_the_crop_back_has_the_size_asked_for_from_all_of_60_by_60_sizes() -> None:
    for height in range(1, 61):
        for width in range(1, 61):
            assert crop_back(torch.zeros(1, 1, 49, 33), (height, width)).shape == (1, 1, height, width)


def test_a_picture_of_one_wrong_side_is_cropped_too_and_of_none_is_left_alone() -> None:
    images = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(crop_back(images, (8, 6)), images[..., 1:7])
    assert crop_back(images, (8, 8)) is images


def test_a_model_of_300_pixels_another_binning_and_a_side_of_0_are_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"binning: 'official' has sizes for models of 256.* this one is of 300"):
        drawn_size((8, 8), binning="official", resolution=300)
    with pytest.raises(ValueError, match="binning: 'nearest' is not one of none, official"):
        drawn_size((8, 8), binning="nearest", resolution=256)
    with pytest.raises(ValueError, match="size 0 x 8: both sides must be at least 1 pixel"):
        drawn_size((0, 8), binning="official", resolution=256)
