"""Laws of the masking and of the toy language."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixart.data.embedded.captions import prompts
from pixart.data.embedded.combinations import TASKS, held_out
from pixart.data.embedded.scenes import Lots, contained, draw_scene
from pixart.preparation.span_corruption import (
    DOCUMENT_STREAM,
    END,
    Corruption,
    Vocabulary,
    corrupt,
    documents,
    documents_about,
    make_vocabulary,
    mask,
    previous,
)

SENTINELS = tuple(range(900, 908))


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return make_vocabulary(8)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), st.floats(0, 1), st.floats(1, 20), st.integers(0, 9))
def test_a_target_fills_the_holes_of_its_source_and_nothing_is_lost(
    length: int, density: float, mean_span: float, seed: int
) -> None:
    ids = list(range(100, 100 + length))
    source, target = corrupt(ids, Corruption(density, mean_span), SENTINELS, np.random.default_rng(seed))
    assert source[-1] == target[-1] == END
    used = [token for token in source if token in SENTINELS]
    assert used == list(SENTINELS[: len(used)]) != []
    spans: dict[int, list[int]] = {}
    for token in target[:-1]:
        if token in SENTINELS:
            spans[token] = []
        else:
            spans[list(spans)[-1]].append(token)
    assert list(spans) == list(SENTINELS[: len(used) + 1])
    assert spans.pop(SENTINELS[len(used)]) == []
    assert all(spans.values())
    assert [token for s in source[:-1] for token in spans.get(s, [s])] == ids


def test_half_of_forty_words_in_spans_of_five_are_twenty_words_in_four_spans() -> None:
    _, target = corrupt(range(100, 140), Corruption(0.5, 5.0), SENTINELS, np.random.default_rng(0))
    assert sum(100 <= token < 140 for token in target) == 20
    assert sum(token in SENTINELS for token in target) == 4 + 1


def test_the_same_seed_gives_the_same_documents_whatever_the_cut() -> None:
    asked = {"seed": 3, "captions": (1, 2), "faithful": 0.5}
    whole = list(documents(0, 20, **asked))  # type: ignore[arg-type]
    assert [*documents(0, 7, **asked), *documents(7, 20, **asked)] == whole  # type: ignore[arg-type]
    assert list(documents(0, 20, seed=4, captions=(1, 2), faithful=0.5)) != whole
    assert {text.count(" . ") for text in whole} == {0, 1}


def test_no_document_of_500_is_about_a_held_out_combination() -> None:
    hidden = {(task, combination) for task in TASKS for combination in held_out(task)}
    for index in range(500):
        assert not contained(draw_scene(Lots(3, index, stream=DOCUMENT_STREAM))) & hidden


def test_every_word_of_documents_and_prompts_is_in_the_vocabulary(vocabulary: Vocabulary) -> None:
    texts = list(documents(0, 100, seed=0, captions=(1, 2, 3), faithful=0.5))
    texts += [prompt.text for task in TASKS for prompt in prompts(task, 20, 0)]
    for text in texts:
        ids = vocabulary.encode(text)
        assert vocabulary.tokenizer(text)["input_ids"] == [*ids, END]
        assert 2 not in ids


def test_both_captions_of_a_document_about_a_target_say_all_of_it() -> None:
    targets = [prompt.target for prompt in prompts("binding", 10, 0)]
    for target, document in zip(targets, documents_about(targets, seed=1), strict=True):
        first, second = document.split(" . ")
        words = {word for wanted in target.objects for word in (wanted.colour, wanted.shape)}
        assert words <= set(first.split()) & set(second.split())


def test_a_masked_batch_is_padded_and_the_decoder_reads_one_token_behind(vocabulary: Vocabulary) -> None:
    texts = ["a red circle", "a red circle on a black background . a black background with a red circle"]
    masked = mask(texts, vocabulary, [Corruption(0.3, 1.0)], np.random.default_rng(0))
    assert masked.source.shape == masked.source_mask.shape
    assert (masked.source[~masked.source_mask] == 0).all()
    assert masked.source_mask[0].sum() == 3 + 1
    assert previous(masked.target)[:, 1:].equal(masked.target[:, :-1])
    assert (previous(masked.target)[:, 0] == 0).all()
