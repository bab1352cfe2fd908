"""Laws of a mixture as a source: its rows are those of its parts, in order, under their names."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixart.data.mixture import Mixture, shared_out
from pixart.data.source import BadSample


@pytest.fixture
def parts(numbered: type) -> dict[str, Any]:
    parts = {"photos": numbered(3, [(8, 8)]), "art": numbered(4, [(8, 12), (12, 8)])}
    parts["photos"].digests, parts["art"].digests = np.arange(3, dtype=np.uint64), np.arange(4, dtype=np.uint64)
    parts["photos"].shards = np.array([0, 1, 1], np.int32)
    parts["art"].shards = np.array([0, 0, 2, 3], np.int32)
    return parts


def test_3_rows_and_4_are_7_with_keys_that_name_their_part(parts: dict[str, Any]):
    mixture = Mixture(parts)
    assert len(mixture) == 7
    keys = ["photos/0000", "photos/0001", "photos/0002", "art/0000", "art/0001", "art/0002", "art/0003"]
    assert [mixture.key(row) for row in range(7)] == keys
    for row, key in enumerate(keys):
        sample = mixture.read(row)
        inner = row if row < 3 else row - 3
        expected = parts[key.split("/")[0]].read(inner)
        assert sample.key == key
        assert sample.image is not None
        assert np.array_equal(sample.image, expected.image)
        assert sample[2:] == expected[2:]
        assert (mixture.heights[row], mixture.widths[row]) == sample.image.shape[:2]
    assert mixture.starts.tolist() == [0, 3, 7]
    assert mixture.digests is not None
    assert mixture.digests.tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert mixture.labels is not None
    assert mixture.labels.tolist() == [0, 1, 2, 0, 1, 2, 3]


@pytest.mark.parametrize("row", [-1, 7])
def test_rows_end_at_6_and_start_at_0(parts: dict[str, Any], row: int):
    with pytest.raises(IndexError, match=f"row {row} of 7"):
        Mixture(parts).read(row)


def test_no_two_parts_share_a_shard(parts: dict[str, Any]):
    mixture = Mixture(parts)
    assert mixture.shards is not None
    assert mixture.shards.tolist() == [0, 1, 1, 2, 2, 4, 5]
    assert "shards" not in mixture.__getstate__()
    parts["photos"].shards = None
    assert Mixture(parts).shards.tolist() == [0, 0, 0, 1, 1, 3, 4]
    parts["art"].shards = None
    assert Mixture(parts).shards is None


def test_a_bad_sample_is_told_by_its_name_in_the_mixture(parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    def bad(_row: int) -> None:
        raise BadSample("0001", "its bytes have changed")

    monkeypatch.setattr(parts["art"], "read", bad)
    with pytest.raises(BadSample, match=r"^art/0001: its bytes have changed$") as caught:
        Mixture(parts).read(4)
    assert (caught.value.key, caught.value.reason) == ("art/0001", "its bytes have changed")


def test_labels_of_a_part_without_any_are_minus_1_and_of_none_there_are_none(parts: dict[str, Any]):
    parts["photos"].labels = None
    assert Mixture(parts).labels.tolist() == [-1, -1, -1, 0, 1, 2, 3]
    parts["art"].labels = None
    assert Mixture(parts).labels is None


def test_rows_to_fetch_reach_the_part_that_holds_them(parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    asked: dict[str, list[int]] = {}
    for name, part in parts.items():
        monkeypatch.setattr(part, "fetch_ahead", lambda rows, name=name: asked.update({name: rows.tolist()}))
    assert not Mixture(parts).far
    Mixture(parts).fetch_ahead(np.array([6, 3, 4]))
    assert asked == {"photos": [], "art": [3, 0, 1]}  # what was wanted of the photos before no longer is
    Mixture(parts).fetch_ahead(np.array([2, 5]))
    assert asked == {"photos": [2], "art": [2]}


def test_features_of_other_encoders_and_images_do_not_mix_with_features(parts: dict[str, Any]):
    parts["photos"].stamps = parts["art"].stamps = {"autoencoder": "a"}
    assert Mixture(parts).stamps == {"autoencoder": "a"}
    for other in (None, {"autoencoder": "b"}):
        parts["art"].stamps = other
        with pytest.raises(ValueError, match=r"data\.mixture: the features of 'art' are not those of 'photos'"):
            Mixture(parts)


def test_features_that_differ_in_2_stamps_are_told_apart_by_these_in_under_300_letters(parts: dict[str, Any]):
    parts["photos"].stamps = {"autoencoder": "a", "null_caption": "A" * 5000, "version": 1}
    parts["art"].stamps = {"autoencoder": "b", "null_caption": "B" * 5000, "version": 1}
    with pytest.raises(ValueError, match=r"\(autoencoder b and a, null_caption\)") as refused:
        Mixture(parts)
    assert len(str(refused.value)) < 300
    parts["art"].stamps = None
    with pytest.raises(ValueError, match=r"\(one of them holds images\)"):
        Mixture(parts)


def test_the_fingerprint_knows_the_parts_their_names_and_their_order(parts: dict[str, Any]):
    same = Mixture(parts).fingerprint
    assert Mixture(dict(parts)).fingerprint == same
    assert Mixture(dict(reversed(parts.items()))).fingerprint != same
    assert Mixture({"pictures": parts["photos"], "art": parts["art"]}).fingerprint != same
    parts["art"].fingerprint = "changed"
    assert Mixture(parts).fingerprint != same


@given(
    st.integers(0, 10_000),
    st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=9),
)
@settings(max_examples=60, deadline=None)
def test_shares_sum_to_the_total_and_each_is_off_by_less_than_1(total: int, weights: list[float]):
    counts = shared_out(total, weights, [0] * len(weights))
    assert sum(counts) == total
    assert all(abs(n - total * w / sum(weights)) <= 1 + 1e-6 for n, w in zip(counts, weights, strict=True))


def test_without_weights_the_sizes_decide():
    assert shared_out(8, [None, None, None], [100, 50, 50]) == [4, 2, 2]
    assert shared_out(8, [1.0, 1.0], [100, 1]) == [4, 4]
    assert shared_out(0, [None], [7]) == [0]
