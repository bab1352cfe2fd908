"""Stamps: features of other encoders or buckets are refused with the mend."""

from typing import Any

import numpy as np
import pytest

from pixart.data.buckets import Bucket
from pixart.data.features import null_states
from pixart.data.stamps import make_stamps, refuse_foreign

BUCKETS = (Bucket(16, 24), Bucket(24, 16))
RUN: dict[str, Any] = {"autoencoder": "aa", "text_encoder": "tt", "buckets": BUCKETS, "distance": "log"}
NULL = np.linspace(-1, 1, 8, dtype=np.float32)[None]


def stamps(**changed: Any) -> dict[str, Any]:
    return make_stamps(**(RUN | {"states": "int8", "null_caption": NULL, "about": {"max_tokens": 8}} | changed))


def test_a_runs_own_features_pass_and_the_empty_caption_comes_back_within_a_254th():
    refuse_foreign(stamps(), "data", **RUN)
    states, scales = null_states(stamps())
    assert scales is not None
    np.testing.assert_allclose(states * scales[:, None], NULL, atol=1 / 254)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"autoencoder": "bb"}, r"by another autoencoder \(stamp bb, this run's is aa\): set autoencoder"),
        ({"text_encoder": "bb"}, r"by another text_encoder \(stamp bb, this run's is tt\)"),
        ({"buckets": BUCKETS[:1]}, "fitted to 1 buckets by log distance"),
        ({"distance": "linear"}, "fitted to 2 buckets by linear distance"),
        ({"text_encoder": None, "null_caption": None}, "hold no text states, which this run needs"),
        ({"about": {"version": 9}}, "of version 9, not 1"),
    ],
)
def test_features_of_something_else_are_one_sentence_with_the_mend(changed: dict[str, Any], sentence: str):
    with pytest.raises(ValueError, match=sentence) as error:
        refuse_foreign(stamps(**changed), "data", **RUN)
    assert "tools/extract.py" in str(error.value)


def test_text_alone_fits_any_buckets_and_any_autoencoder():
    refuse_foreign(stamps(autoencoder=None, buckets=()), "data", **RUN)


def test_moments_alone_serve_a_run_on_labels_and_hold_no_empty_caption():
    alone = stamps(text_encoder=None, null_caption=None)
    refuse_foreign(alone, "data", **(RUN | {"text_encoder": None}))
    with pytest.raises(ValueError, match="no text states"):
        null_states(alone)
