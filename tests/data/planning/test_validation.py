"""Laws of the held-out split and of the pass over it."""

import numpy as np
import pytest

from pixart.data.buckets import Bucket
from pixart.data.planning.validation import Once, split_rows

BUCKETS = [Bucket(8, 8), Bucket(8, 12)]


def digests(count: int) -> np.ndarray:
    """Digests of as many keys: any distinct numbers."""
    return np.random.default_rng(0).permutation(np.arange(1, 1001, dtype=np.uint64) * 7919)[:count]


def test_a_split_has_exactly_the_rows_asked_for_and_is_disjoint():
    train, held_out = split_rows(digests(200), held_out=30, seed=1)
    assert len(held_out) == 30
    assert sorted([*train, *held_out]) == list(range(200))
    assert split_rows(digests(200), held_out=30, seed=1)[1].tolist() == held_out.tolist()
    assert split_rows(digests(200), held_out=30, seed=2)[1].tolist() != held_out.tolist()


def test_growing_data_never_hold_out_a_sample_that_was_trained_on():
    train, _ = split_rows(digests(200), held_out=30, seed=1)
    _, later = split_rows(digests(500), held_out=30, seed=1)
    assert not set(train) & set(later)


def test_the_split_goes_by_digest_and_not_by_the_order_of_rows():
    _, held_out = split_rows(digests(50), held_out=9, seed=1)
    _, mirrored = split_rows(digests(50)[::-1], held_out=9, seed=1)
    assert sorted(49 - mirrored) == held_out.tolist()


def test_holding_out_nothing_is_fine_and_holding_out_everything_is_refused():
    train, held_out = split_rows(digests(5), held_out=0, seed=1)
    assert (len(train), len(held_out)) == (5, 0)
    with pytest.raises(ValueError, match="validation_samples=5 leaves none of the 5 samples"):
        split_rows(digests(5), held_out=5, seed=1)


def test_a_pass_has_every_row_once_and_one_bucket_a_batch():
    heights, widths = np.full(11, 8), np.array([8, 12, 12] * 3 + [8, 8])
    rows = np.arange(100, 111)
    plan = Once(heights, widths, buckets=BUCKETS, global_batch=4, distance="log", rows=rows)
    assert list(plan.ks) == [-1, -2, -3, -4]
    batches = [plan.batch(k) for k in plan.ks]
    assert [len(batch.rows) for batch in batches] == [plan.global_batch(k) for k in plan.ks] == [4, 1, 4, 2]
    assert sorted(row for batch in batches for row in batch.rows) == rows.tolist()
    for batch in batches:
        assert {widths[row - 100] for row in batch.rows} == {batch.bucket.width}


@pytest.mark.parametrize("k", [0, -5])
def test_a_number_outside_the_pass_is_refused(k: int):
    plan = Once(np.full(4, 8), np.full(4, 8), buckets=BUCKETS, global_batch=1, distance="log")
    with pytest.raises(ValueError, match=f"k={k}"):
        plan.batch(k)


def test_a_split_taken_in_chunks_of_16_is_the_one_taken_at_once(monkeypatch: pytest.MonkeyPatch):
    whole = [rows.tolist() for rows in split_rows(digests(203), held_out=20, seed=1)]
    monkeypatch.setattr("pixart.data.planning.validation._CHUNK", 16)
    assert [rows.tolist() for rows in split_rows(digests(203), held_out=20, seed=1)] == whole


def test_a_held_out_row_that_cannot_be_read_has_substitutes_of_its_bucket():
    widths = np.array([8, 12, 12] * 3)
    plan = Once(np.full(9, 8), widths, buckets=BUCKETS, global_batch=4, distance="log")
    for k in plan.ks:
        batch = plan.batch(k)
        alike = set(np.flatnonzero(widths == batch.bucket.width))
        for position, row in enumerate(batch.rows):
            substitutes = [plan.substitute(k, position, attempt) for attempt in range(1, len(alike))]
            assert sorted(substitutes) == sorted(alike - {row})
