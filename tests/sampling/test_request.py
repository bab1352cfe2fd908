from typing import Any

import pytest

from pixart.sampling.request import batches, check_numbers, check_words

TEXT = {"text_dim": 8, "num_classes": None}
CLASSES = {"text_dim": None, "num_classes": 10}


def words(config: dict[str, Any], **changed: Any) -> None:
    check_words(config, **{"prompts": None, "labels": None, "text_encoder_dim": None, **changed})


def test_positions_of_2_sizes_are_grouped_in_order_and_cut_after_2() -> None:
    sizes = [(32, 32), (16, 32), (32, 32), (32, 32), (16, 32)]
    assert batches(sizes, 2) == [[0, 2], [3], [1, 4]]


def test_every_position_is_drawn_once_for_any_batch_size() -> None:
    sizes = [(8 * (1 + i % 3), 8) for i in range(17)]
    for batch_size in (1, 2, 5, 100):
        groups = batches(sizes, batch_size)
        assert sorted(i for group in groups for i in group) == list(range(17))
        assert all(len(group) <= batch_size and len({sizes[i] for i in group}) == 1 for group in groups)


def test_what_a_model_takes_passes() -> None:
    words(TEXT, prompts=["a"], text_encoder_dim=8)
    words(CLASSES, labels=[0, 9])
    check_numbers(1, 16, seeds=[0], sizes=[(16, 48)])


@pytest.mark.parametrize(
    ("config", "asked", "sentence"),
    [
        (CLASSES, {"prompts": ["a"]}, "prompts: these weights know no text; give labels"),
        (TEXT, {"labels": [1]}, "labels: these weights know no classes; give prompts"),
        (TEXT, {}, "prompts: these weights draw from text and need them"),
        (CLASSES, {}, "labels: these weights draw from classes and need them"),
        (TEXT, {"prompts": ["a"]}, "text_encoder: these weights draw from text and need the encoder"),
        (TEXT, {"prompts": ["a"], "text_encoder_dim": 9}, "text_encoder: its states are 9 wide, these weights take 8"),
        (CLASSES, {"labels": [3, 10]}, "labels: 10 is not a class of these weights, which know 0 to 9"),
        (CLASSES, {"labels": [-1]}, "labels: -1 is not a class"),
    ],
)
def test_words_that_a_model_does_not_take_are_refused_in_1_sentence(
    config: dict[str, Any], asked: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}"):
        words(config, **asked)


@pytest.mark.parametrize(
    ("count", "seeds", "sizes", "sentence"),
    [
        (0, [], [], "prompts: there are none to draw"),
        (2, [0], [(16, 16)] * 2, "seeds: 1 of them for 2 pictures"),
        (2, [0, 1], [(16, 16)], "sizes: 1 of them for 2 pictures"),
        (1, [0], [(16, 24)], "size 16 x 24: both sides must be multiples of 16 pixels"),
        (1, [0], [(0, 16)], "size 0 x 16: both sides must be multiples of 16 pixels"),
    ],
)
def test_missing_seeds_and_sizes_that_are_no_whole_patches_are_refused_in_1_sentence(
    count: int, seeds: list[int], sizes: list[tuple[int, int]], sentence: str
) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}"):
        check_numbers(count, 16, seeds=seeds, sizes=sizes)
