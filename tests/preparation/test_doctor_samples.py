"""Laws of looking into samples: few files, every fault told once, lengths as the tokenizer counts them."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pixart.data.source import BadSample, Sample
from pixart.encoders.text import load_tokenizer
from pixart.preparation.doctor_samples import (
    UNLIMITED,
    choose,
    examine_captions,
    examine_labels,
    read_samples,
)

IMAGE = np.zeros((4, 4, 3), np.uint8)


class Faulty:
    """Forty rows in four shards; some rows are bad, some shards are gone, some rows have no caption."""

    def __init__(self, bad: Sequence[int] = (), gone: Sequence[int] = (), silent: Sequence[int] = ()):
        self.shards = np.arange(40, dtype=np.int32) // 10
        self.bad, self.gone, self.silent = bad, gone, silent
        self.tried: list[int] = []

    def read(self, row: int) -> Sample:
        self.tried.append(row)
        if self.shards[row] in self.gone:
            raise ValueError(f"shard {self.shards[row]} is missing")
        if row in self.bad:
            raise BadSample(f"key {row}", "checksum")
        return Sample(f"key {row}", IMAGE, () if row in self.silent else ("one", "two"), None)


def test_16_samples_come_out_of_2_shards_and_are_the_same_for_the_same_seed() -> None:
    rows, shards = np.arange(5, 40), np.arange(40, dtype=np.int32) // 10
    chosen = choose(rows, shards, samples=16, files=2, seed=3)
    assert len(np.unique(chosen)) == 16
    assert len(np.unique(shards[chosen])) == 2
    assert chosen.min() >= 5
    assert (chosen == choose(rows, shards, samples=16, files=2, seed=3)).all()
    assert (choose(rows, None, samples=100, files=1, seed=0) == rows).all()


def test_2_bad_samples_are_named_and_a_missing_shard_is_told_and_tried_once() -> None:
    source: Any = Faulty(bad=[1, 25], gone=[1], silent=[30])
    read = read_samples(source, np.arange(40), choice="first")
    assert read.bad == {"key 1": "checksum", "key 25": "checksum"}
    assert read.broken == ("shard 1 is missing",)
    assert [row for row in source.tried if 10 <= row < 20] == [10]
    assert (read.samples, read.shards, len(read.captions)) == (40, 4, 28)
    assert read.samples_per_second > 0


@pytest.mark.parametrize(("choice", "kept"), [("first", ("one",)), ("random", ("one", "two"))])
def test_of_2_captions_those_that_training_may_use_are_kept(choice: Any, kept: tuple[str, ...]) -> None:
    source: Any = Faulty()
    assert read_samples(source, np.arange(1), choice=choice).captions == {"key 0": kept}


class Words:
    """A tokenizer of words: one number each, 2 for those of more than three letters, and an end."""

    backend = SimpleNamespace(unk_token_id=2)

    def tokenize(self, captions: Sequence[str]) -> list[list[int]]:
        return [[*(2 if len(word) > 3 else 7 for word in caption.split()), 1] for caption in captions]


def test_2_of_4_captions_are_longer_than_3_tokens_and_lose_3_of_13() -> None:
    tokenizer: Any = Words()
    captions = examine_captions(["", "a b", "a b c d", "unknown b c"], tokenizer, max_tokens=3)
    assert (captions.truncated, captions.longest, captions.median) == (0.5, 5, 3.5)
    assert captions.lost == pytest.approx(3 / 13)
    assert captions.emptied == 0.25
    assert captions.unknown == pytest.approx(1 / 13)


@pytest.mark.parametrize("max_tokens", [1, 3, 24, 120, 300])
@pytest.mark.parametrize("longest", [1, 2, 24, 121, 5000])
def test_bars_add_up_to_1_and_those_above_the_limit_are_the_truncated_share(max_tokens: int, longest: int) -> None:
    tokenizer: Any = Words()
    texts = ["a " * length for length in {0, longest // 2, longest - 1}]
    captions = examine_captions(texts, tokenizer, max_tokens=max_tokens)
    assert sum(captions.bars) == pytest.approx(1)
    assert list(captions.edges) == sorted(set(captions.edges))
    assert len(captions.bars) == len(captions.edges) - 1 <= 24
    above = [share for share, low in zip(captions.bars, captions.edges[:-1], strict=True) if low >= max_tokens]
    assert sum(above) == pytest.approx(captions.truncated)


def test_the_packaged_tokenizer_counts_a_long_caption_whole_and_2_unknown_words() -> None:
    tokenizer = load_tokenizer("shapes-t5", max_tokens=UNLIMITED, cleaning="basic")
    captions = examine_captions(["a red circle " * 40, "a zebra circle with stripes"], tokenizer, max_tokens=24)
    assert captions.longest == 121
    assert captions.truncated == 0.5
    assert captions.unknown == pytest.approx(2 / 127)


def test_labels_count_1_missing_2_outside_and_3_classes_without_a_sample() -> None:
    labels = examine_labels(np.array([0, 0, 0, 1, -1, 5, 9]), 7, classes=5)
    assert (labels.missing, labels.outside, labels.absent, labels.fewest, labels.most) == (1, 2, 3, 0, 3)
    assert examine_labels(None, 7, classes=5)[1:4] == (7, 0, 5)
