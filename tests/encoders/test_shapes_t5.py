"""Laws of the packaged miniature: what it must know before a denoiser can learn from it."""

import socket
from itertools import chain

import pytest
import torch
from torch import Tensor

from pixart.data.embedded.shapes import TASKS, captions, prompts, seen_prompts
from pixart.encoders.text import MINIATURES, TextEncoder, load_text_encoder
from pixart.preparation.span_corruption import make_vocabulary
from pixart.preparation.text_probes import probe

FOLDER = MINIATURES["shapes-t5"]
UNKNOWN = 2


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return load_text_encoder("shapes-t5", max_tokens=48, cleaning="basic", dtype=torch.float32)


def test_it_takes_less_than_a_million_bytes_and_is_64_wide(encoder: TextEncoder) -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 1_000_000
    assert encoder.dim == 64


def test_transformers_loads_it_by_the_folders_name_in_float32_without_a_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers import AutoTokenizer, T5EncoderModel

    def refuse(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    ids = AutoTokenizer.from_pretrained(FOLDER)("a red circle").input_ids
    assert (len(ids), ids[-1]) == (4, 1)
    model = T5EncoderModel.from_pretrained(FOLDER)
    assert (model.dtype, model.config.d_model) == (torch.float32, 64)


def test_no_caption_and_no_prompt_holds_an_unknown_word_or_more_than_48_tokens(encoder: TextEncoder) -> None:
    asked = chain.from_iterable(draw(task, 60, 0) for task in TASKS for draw in (prompts, seen_prompts))
    texts = [*captions(500, 0), *(prompt.text for prompt in asked), "A red circle, and a blue square."]
    ids = encoder.tokenize(texts)
    assert not any(UNKNOWN in x for x in ids)
    assert max(map(len, ids)) < 24
    assert UNKNOWN in encoder.tokenize(["an octopus"])[0]


def distance(a: Tensor, b: Tensor) -> float:
    """Cosine distance."""
    return 1 - torch.cosine_similarity(a, b, dim=0).item()


SWAPS = [
    ("a red circle left of a blue square", "a blue square left of a red circle"),
    ("a red circle and a blue square", "a blue circle and a red square"),
    ("a ring above a cross on a white background", "a cross above a ring on a white background"),
]


@pytest.mark.parametrize(("caption", "swapped"), SWAPS)
def test_a_swap_of_words_moves_the_states_which_a_bag_of_words_cannot(
    encoder: TextEncoder, caption: str, swapped: str
) -> None:
    ids = [encoder.tokenize([text])[0] for text in (caption, swapped)]
    first, second = (encoder([text])[0][0] for text in (caption, swapped))
    word = encoder.tokenizer.backend.convert_tokens_to_ids
    moved = [w for w in caption.split() if w in ("circle", "square", "ring", "cross")]
    assert sorted(ids[0]) == sorted(ids[1])  # the same bag
    for shape in moved:  # random weights of the same size: 0.004 at most, and 0.0008 for the mean
        token = word(f"\u2581{shape}")
        assert distance(first[ids[0].index(token)], second[ids[1].index(token)]) > 0.01
    assert distance(first.mean(dim=0), second.mean(dim=0)) > 0.002


def test_frozen_states_tell_colours_and_places_of_held_out_combinations(encoder: TextEncoder) -> None:
    found = probe(
        encoder.encode,
        make_vocabulary(16),
        fit={"binding": 1500, "position": 594},
        score={"binding": 400, "position": 198},
        seed=1,
    )
    assert found["colour, at the shape's word"] > 0.95
    assert found["role, at the shape's word"] > 0.5  # a bag of words: 0.05, random weights: 0.13


def test_states_have_about_unit_scale(encoder: TextEncoder) -> None:
    states, mask = encoder(list(captions(200, 1)))
    assert 0.5 < states[mask].std() < 2
    assert states[mask].mean().abs() < 0.2
