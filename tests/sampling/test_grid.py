import numpy as np
import pytest
from PIL import ImageFont

from pixart.sampling.grid import GAP, LINE_HEIGHT, make_grid, wrap

FONT = ImageFont.load_default(14)


def flat(height: int, width: int, value: int) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_5_images_in_2_columns_make_3_rows() -> None:
    grid = make_grid([flat(200, 200, 9)] * 5, ["x"] * 5, columns=2)
    assert grid.size == (GAP + 2 * (200 + GAP), GAP + 3 * (200 + LINE_HEIGHT + GAP))


def test_2_images_in_4_columns_leave_no_empty_cells() -> None:
    assert make_grid([flat(200, 200, 9)] * 2, ["x"] * 2, columns=4).width == GAP + 2 * (200 + GAP)


def test_32_pixels_become_192_by_repetition_and_256_stay() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    pixels = np.asarray(make_grid([image], ["x"], columns=1))
    assert np.array_equal(pixels[GAP : GAP + 192, GAP : GAP + 192], image.repeat(6, 0).repeat(6, 1))
    assert make_grid([flat(256, 256, 9)], ["x"], columns=1).width == 256 + 2 * GAP


def test_images_of_2_sizes_keep_their_proportion() -> None:
    pixels = np.asarray(make_grid([flat(32, 16, 10), flat(16, 32, 200)], ["", ""], columns=2))
    assert ((pixels == 10).all(-1)).sum() == ((pixels == 200).all(-1)).sum() == 192 * 96


def test_the_prompt_is_written_under_its_own_picture_and_nowhere_else() -> None:
    pixels = np.asarray(make_grid([flat(192, 192, 255)] * 2, ["a red circle", ""], columns=2))
    under = pixels[GAP + 192 : GAP + 192 + LINE_HEIGHT]
    half = GAP + 192
    assert (under[:, :half] < 128).any()
    assert (under[:, half:] == 255).all()


@pytest.mark.parametrize("text", ["two green squares and a very small blue circle " * 3, "i" * 500, "短い" * 90])
def test_wrapped_lines_fit_their_width_and_are_at_most_6(text: str) -> None:
    lines = wrap(text, 192, FONT)
    assert 1 < len(lines) <= 6
    assert all(FONT.getlength(line) <= 192 for line in lines)


def test_wrapping_loses_no_word_of_a_short_prompt() -> None:
    text = "a red circle left of a blue square under a green star"
    assert " ".join(wrap(text, 120, FONT)) == text


def test_a_prompt_cut_after_6_lines_ends_with_an_ellipsis() -> None:
    assert wrap("word " * 200, 192, FONT)[-1].endswith("...")


def test_no_images_1_caption_for_2_images_and_0_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="as many captions as images and at least one"):
        make_grid([], [], columns=4)
    with pytest.raises(ValueError, match="as many captions as images and at least one"):
        make_grid([flat(8, 8, 0)] * 2, ["x"], columns=4)
    with pytest.raises(ValueError, match="columns: 0 must be at least 1"):
        make_grid([flat(8, 8, 0)], ["x"], columns=0)
