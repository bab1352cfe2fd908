"""Stored features take the place of images and token ids, and everything else about an example stays as it is."""

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pixart.data.buckets import Bucket
from pixart.data.dataset import Cut, Examples
from pixart.data.features import dequantised, pack, unpack
from pixart.data.planning.plan import Part, Plan
from pixart.data.stored import null_caption

BUCKETS = [Bucket(16, 16), Bucket(16, 24)]
DIM, NULL = 6, np.full((1, 6), 0.5, np.float32)
OPTIONS = {
    **{"seed": 3, "latent_channels": 4, "latent_stride": 8, "posterior_noise": True, "max_tokens": 5},
    **{"tokenize": lambda captions: [[1] for _ in captions], "caption_choice": "first", "caption_drop": 0.0},
    **{"null_label": None, "label_drop": 0.0, "size_conditioning": True, "aspect_ratio": "exact", "flip": False},
    "stratified": True,
}


def states_of_row(row: int, caption: int) -> np.ndarray:
    """(1 + row % 3, DIM)"""
    return np.full((1 + row % 3, DIM), row + caption / 2, np.float32)


def moments_of_row(row: int, width: int) -> np.ndarray:
    return np.full((8, 2, width // 8), row, np.float32)


@pytest.fixture(params=["int8", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(numbered: type, monkeypatch: pytest.MonkeyPatch, dtype: str) -> Callable[..., Examples]:
    plain = numbered.read

    def read(self: Any, row: int) -> Any:
        packed = pack(
            moments_of_row(row, int(self.widths[row])), [states_of_row(row, 0), states_of_row(row, 1)], dtype=dtype
        )
        return plain(self, row)._replace(image=None, features=unpack(packed))

    def examples(**changes: Any) -> Examples:
        source = numbered(40, [(16, 16), (16, 24)])
        parts = [Part(source.heights, source.widths)]
        plan = Plan(
            parts,
            **{"buckets": BUCKETS, "global_batch": 10, "seed": 3, "small_buckets": "refuse"},
            **{"distance": "log", "streams": 1, "window": 1},
        )
        stored = {"autoencoder", "text_encoder"} - set(changes.pop("without", ()))
        null = base64.b64encode(pack(None, [NULL], dtype=dtype)).decode()
        source.stamps = {**dict.fromkeys(stored, "0123"), "null_caption": null, "states": dtype}
        return Examples(source, plan, **{**OPTIONS, **changes})

    monkeypatch.setattr(numbered, "read", read)
    return examples


def test_moments_and_states_come_as_they_were_stored_and_captions_are_padded_to_5(make: Callable[..., Examples]):
    examples = make()
    batch = examples[Cut(3, 2, 8)]
    bucket = examples.plan.batch(3).bucket
    assert batch.images is None
    assert batch.token_ids is None
    assert batch.moments.dtype == torch.float16
    assert batch.moments.shape == (6, 8, 2, bucket.width // 8)
    assert batch.states.shape == (6, 5, DIM)
    states = dequantised(batch.states, batch.state_scales)
    for i, key in enumerate(batch.keys):
        row, length = int(key), 1 + int(key) % 3
        assert (batch.moments[i] == row).all()
        torch.testing.assert_close(states[i, :length], torch.from_numpy(states_of_row(row, 0)), rtol=5e-3, atol=0)
        assert not states[i, length:].any()
        assert batch.mask[i].tolist() == [position < length for position in range(5)]


def test_a_dropped_caption_has_the_stored_states_of_the_empty_one(make: Callable[..., Examples]):
    batch = make(caption_drop=1.0)[Cut(0, 0, 4)]
    assert batch.mask.sum(1).tolist() == [1] * 4
    states = dequantised(batch.states, batch.state_scales)
    torch.testing.assert_close(states[:, 0], torch.from_numpy(NULL).expand(4, DIM), rtol=5e-3, atol=0)


def test_a_random_choice_takes_the_captions_that_it_would_take_online(make: Callable[..., Examples]):
    online = make(without=["text_encoder"], caption_choice="random", tokenize=lambda cs: [[ord(c[0])] for c in cs])
    stored = make(caption_choice="random")
    for k in range(3):
        first = online[Cut(k, 0, 10)].token_ids[:, 0] == ord("r")  # "row 7", not "again 7"
        batch = stored[Cut(k, 0, 10)]
        states = dequantised(batch.states, batch.state_scales)[:, 0, 0]
        rows = torch.tensor([int(key) for key in batch.keys])
        torch.testing.assert_close(states, rows + (~first) / 2, rtol=5e-3, atol=0)


def test_a_class_conditional_run_takes_moments_and_leaves_text_alone(make: Callable[..., Examples]):
    batch = make(tokenize=None, null_label=5)[Cut(0, 0, 3)]
    assert batch.moments is not None
    assert (batch.states, batch.mask) == (None, None)
    assert batch.label.tolist() == [int(key) % 5 for key in batch.keys]


def test_moments_of_another_size_are_named_with_both_sizes(make: Callable[..., Examples]):
    examples = make(latent_channels=3)
    with pytest.raises(ValueError, match=r"^00\d\d: moments of 6x2x\d were .* there are 8x2x\d: extract"):
        examples[Cut(0, 0, 1)]


def test_stored_moments_cannot_be_mirrored(make: Callable[..., Examples]):
    with pytest.raises(ValueError, match=r"data\.flip=true mirrors images"):
        make(flip=True)
    make(flip=True, without=["autoencoder"])


def test_the_null_caption_of_a_snapshot_is_the_stored_one_at_its_true_length(dtype: str):
    null = base64.b64encode(pack(None, [NULL], dtype=dtype)).decode()
    states = null_caption({"null_caption": null, "states": dtype})
    assert states.dtype == torch.float32
    torch.testing.assert_close(states, torch.from_numpy(NULL), rtol=5e-3, atol=0)
