"""Laws of the probes: what holds an answer is read as holding it, what does not is not."""

import pytest
import torch
from torch import Tensor

from pixart.preparation.span_corruption import Corruption, Vocabulary, make_vocabulary
from pixart.preparation.text_probes import (
    PROBES,
    infilling_accuracy,
    majority_accuracy,
    make_infilling,
    probe,
)

MANY = {"fit": {"binding": 600, "position": 594}, "score": {"binding": 200, "position": 198}, "seed": 0}


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return make_vocabulary(16)


def words(token_ids: Tensor) -> Tensor:
    """(N, L) -> (N, L, V): each word by itself."""
    return torch.nn.functional.one_hot(token_ids, 80).float()


def test_a_bag_of_words_reads_no_better_than_chance_on_held_out_combinations(vocabulary: Vocabulary) -> None:
    found = probe(lambda token_ids, _: words(token_ids), vocabulary, **MANY)  # type: ignore[arg-type]
    assert list(found) == list(PROBES)
    assert found["colour, at the shape's word"] < 2 / 8
    assert found["shape, at the colour's word"] < 2 / 6
    assert found["role, at the shape's word"] < 1 / 4
    assert found["colour of the first shape, in the mean"] < 0.65  # one of two colours
    assert found["role of the first shape, in the mean"] < 1 / 4


def test_states_that_hold_their_left_neighbour_read_the_colour_of_a_shape_without_error(vocabulary: Vocabulary) -> None:
    def with_neighbour(token_ids: Tensor, _: Tensor) -> Tensor:
        return torch.cat([words(token_ids), words(token_ids.roll(1, dims=1))], dim=-1)

    found = probe(with_neighbour, vocabulary, **MANY)  # type: ignore[arg-type]
    assert found["colour, at the shape's word"] == 1.0
    assert found["shape, at the colour's word"] < 2 / 6


class Oracle:
    """Stands for a T5 that knows the target, but for what it says of the last token."""

    def __init__(self, target: Tensor, wrong: int):
        self.target, self.wrong = target, wrong

    def __call__(self, **_: Tensor) -> "Oracle":
        return self

    @property
    def logits(self) -> Tensor:
        logits = torch.nn.functional.one_hot(self.target, 80).float()
        logits[: self.wrong] = 0
        return logits


def test_infilling_counts_masked_words_only_and_an_oracle_restores_all(vocabulary: Vocabulary) -> None:
    infilling = make_infilling(vocabulary, [Corruption(0.3, 1.0)], per_task=10, seed=0)
    target = infilling.masked.target
    assert len(target) == 60
    counted = target[infilling.kinds["all words"]]
    assert not set(counted.tolist()) & {0, 1, *vocabulary.sentinels}
    assert infilling_accuracy(Oracle(target, 0), infilling) == dict.fromkeys(infilling.kinds, 1.0)
    share = infilling.kinds["all words"][:30].sum() / infilling.kinds["all words"].sum()
    assert infilling_accuracy(Oracle(target, 30), infilling)["all words"] == pytest.approx(1 - share.item())


def test_the_majority_is_the_share_of_the_commonest_word_of_a_kind(vocabulary: Vocabulary) -> None:
    infilling = make_infilling(vocabulary, [Corruption(0.3, 1.0)], per_task=10, seed=0)
    shapes = infilling.masked.target[infilling.kinds["shapes"]]
    assert majority_accuracy(infilling)["shapes"] == pytest.approx(shapes.bincount().max().item() / len(shapes))
