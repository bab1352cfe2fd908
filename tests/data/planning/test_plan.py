"""Laws of the plan: one bucket a step, nothing dropped, even visits, any step at once."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixart.aside import written_aside
from pixart.data.buckets import Bucket, official_buckets
from pixart.data.planning.plan import Part, Plan

BUCKETS = [Bucket(40, 56), Bucket(48, 48), Bucket(56, 40)]


def make_plan(counts: list[int], **changes: object) -> Plan:
    """A plan over ``counts[b]`` images of exactly the ratio of bucket b, shuffled."""
    places = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    heights, widths = np.array(BUCKETS)[places].T if len(places) else (np.zeros(0), np.zeros(0))
    settings = {
        "buckets": BUCKETS,
        "global_batch": 4,
        "seed": 7,
        "small_buckets": "repeat",
        "distance": "linear",
        "streams": 1,
        "window": 1,
    }
    part = Part(heights, widths, rows=changes.pop("rows", None), shards=changes.pop("shards", None))
    return Plan([part], **{**settings, **changes})


histograms = st.lists(st.integers(0, 40), min_size=3, max_size=3).filter(any)
batches = st.lists(st.integers(1, 12), min_size=3, max_size=3)


def test_two_positions_of_a_bad_batch_are_not_given_the_same_substitutes():
    plan = make_plan([0, 5000, 0])
    assert len({plan.substitute(9, position, attempt) for position in range(4) for attempt in (1, 2)}) == 8


@given(histograms, batches, st.integers(0, 2**64 - 1), st.integers(1, 80))
@settings(max_examples=30, deadline=None)
def test_visits_of_two_samples_of_one_bucket_differ_by_at_most_one_after_any_number_of_steps(
    counts: list[int], sizes: list[int], seed: int, steps: int
):
    plan = make_plan(counts, global_batch=sizes, seed=seed)
    visits = np.zeros(sum(counts), dtype=int)
    bucket_of = np.full(sum(counts), -1)
    for k in range(steps):
        batch = plan.batch(k)
        np.add.at(visits, batch.rows, 1)
        bucket_of[batch.rows] = BUCKETS.index(batch.bucket)
        assert len(batch.rows) == sizes[BUCKETS.index(batch.bucket)] == plan.global_batch(k)
    for place, count in enumerate(counts):
        mine = visits[bucket_of == place]
        if len(mine):
            missing = count - len(mine)  # samples never seen: then no other was seen twice
            assert mine.max() - (0 if missing else mine.min()) <= 1


@given(histograms, batches, st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_every_bucket_keeps_its_share_of_the_steps_to_within_a_constant(counts: list[int], sizes: list[int], seed: int):
    plan = make_plan(counts, global_batch=sizes, seed=seed)
    weights = np.array(counts) / sizes
    shares = weights / weights.sum()
    turns = np.zeros(3)
    for k in range(100):
        turns[BUCKETS.index(plan.batch(k).bucket)] += 1
        assert (abs(turns - (k + 1) * shares) <= 2 + 3 * shares).all()


@given(histograms, batches, st.integers(0, 10**9))
@settings(max_examples=20, deadline=None)
def test_steps_from_any_k_on_continue_the_streams_without_gap_or_overlap(counts: list[int], sizes: list[int], k: int):
    plan = make_plan(counts, global_batch=sizes)
    turns = [plan._turn(step) for step in range(k, k + 40)]
    for place in {place for place, _ in turns}:
        visits = [visit for other, visit in turns if other == place]
        assert visits == list(range(visits[0], visits[0] + len(visits)))


def test_one_pass_over_a_bucket_is_a_permutation_and_the_next_pass_another():
    plan = make_plan([0, 12, 0])
    rows = np.concatenate([plan.batch(k).rows for k in range(6)])
    first, second = rows[:12].tolist(), rows[12:].tolist()
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


@pytest.mark.parametrize("k", [0, 1, 12345, 10**7, 10**9])
def test_a_fresh_plan_gives_the_same_batch_at_any_k_up_to_a_thousand_million(k: int):
    one, other = (make_plan([30, 50, 7]).batch(k) for _ in range(2))
    assert one.k == other.k == k
    assert one.bucket == other.bucket
    np.testing.assert_array_equal(one.rows, other.rows)
    assert not np.array_equal(one.rows, make_plan([30, 50, 7], seed=8).batch(k).rows)


def test_adding_data_to_one_bucket_leaves_the_order_of_another_as_it_was():
    heights, widths = np.repeat([48, 40], 9), np.repeat([48, 56], 9)
    common = {
        "buckets": BUCKETS,
        "global_batch": 3,
        "seed": 1,
        "small_buckets": "repeat",
        "distance": "log",
        "streams": 1,
        "window": 1,
    }

    def squares(plan: Plan) -> list[int]:
        taken = [batch.rows for batch in map(plan.batch, range(40)) if batch.bucket == (48, 48)]
        return np.concatenate(taken)[:18].tolist()

    more = Plan([Part(np.append(heights, [40] * 5), np.append(widths, [56] * 5))], **common)
    assert squares(Plan([Part(heights, widths)], **common)) == squares(more)


def test_rows_name_what_a_subset_plan_draws_from():
    chosen = np.array([5, 8, 11, 20])
    plan = Plan(
        [Part(*np.full((2, 4), 48), chosen)],
        buckets=BUCKETS,
        global_batch=4,
        seed=0,
        small_buckets="refuse",
        distance="log",
        streams=1,
        window=1,
    )
    assert sorted(plan.batch(3).rows) == [5, 8, 11, 20]


def test_a_small_bucket_is_merged_with_its_nearest_neighbour_and_reported():
    plan = make_plan([9, 2, 30], small_buckets="merge", distance="log")
    assert plan.buckets == ((40, 56), (56, 40))
    report = plan.report()
    assert report.samples == 41
    assert [(b.samples, b.merged, b.batches_per_pass) for b in report.buckets] == [(11, 2, 2.75), (30, 0, 7.5)]
    assert report.steps_per_pass == 10.25
    seen = np.concatenate([plan.batch(k).rows for k in range(22)])
    assert len(set(seen)) == 41


def test_small_buckets_merge_until_each_fills_its_batch():
    assert [b.samples for b in make_plan([3, 3, 3], small_buckets="merge").report().buckets] == [9]


def test_a_repeated_small_bucket_fills_its_batch_and_is_seen_no_more_often_than_others():
    plan = make_plan([2, 40, 0])
    visits = np.zeros(42)
    for k in range(1050):
        batch = plan.batch(k)
        assert len(batch.rows) == 4
        np.add.at(visits, batch.rows, 1)
    assert abs(visits - 100).max() <= 3


@pytest.mark.parametrize(("policy", "counts"), [("refuse", [3, 9, 9]), ("merge", [3, 0, 0])])
def test_a_bucket_smaller_than_its_batch_is_refused_in_one_sentence(policy: str, counts: list[int]):
    with pytest.raises(ValueError, match="bucket 40x56 has 3 samples, fewer than its global batch of 4"):
        make_plan(counts, small_buckets=policy)


def test_no_data_a_batch_of_nothing_and_a_negative_k_are_refused():
    with pytest.raises(ValueError, match="no sample to plan"):
        make_plan([0, 0, 0])
    for wrong in (0, [4, 4], [4, 4, 0]):
        with pytest.raises(ValueError, match="global_batch="):
            make_plan([9, 9, 9], global_batch=wrong)
    with pytest.raises(ValueError, match="k=-1"):
        make_plan([9, 9, 9]).batch(-1)


def test_the_fingerprint_changes_with_seed_batch_buckets_counts_and_rows():
    base = make_plan([9, 9, 9]).fingerprint
    assert base == make_plan([9, 9, 9]).fingerprint
    others = [
        make_plan([9, 9, 9], streams=2),
        make_plan([9, 9, 9], window=2),
        make_plan([9, 9, 9], shards=np.repeat([0, 1], [20, 7]).astype(np.int32)),
        make_plan([9, 9, 9], seed=8),
        make_plan([9, 9, 9], global_batch=5),
        make_plan([9, 9, 10]),
        make_plan([9, 9, 9], rows=np.arange(1, 28)),
        make_plan([9, 9, 9], buckets=[Bucket(80, 112), *BUCKETS[1:]]),
    ]
    assert len({base, *(plan.fingerprint for plan in others)}) == 9


def test_forty_official_buckets_of_uneven_size_see_every_sample_in_little_more_than_one_pass():
    rng = np.random.default_rng(1)
    plan = Plan(
        [Part(*rng.integers(200, 900, (2, 3000)))],
        **{
            "buckets": official_buckets(256),
            "global_batch": 16,
            "seed": 3,
            "small_buckets": "merge",
            "distance": "linear",
            "streams": 1,
            "window": 1,
        },
    )
    steps = int(plan.report().steps_per_pass) + 2 * len(plan.buckets)
    assert len({row for k in range(steps) for row in plan.batch(k).rows.tolist()}) == 3000


def test_a_plan_from_the_cache_of_sorted_rows_is_the_same_plan(tmp_path: Path):
    plans = [make_plan([30, 50, 7], order_cache=folder) for folder in (None, tmp_path, tmp_path)]
    assert len({plan.fingerprint for plan in plans}) == 1
    assert len({tuple(plan.batch(10**6).rows.tolist()) for plan in plans}) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_of_2_parts_of_a_cache_that_of_a_dead_process_is_cleared_and_that_of_a_living_one_stays(tmp_path: Path):
    make_plan([30, 50, 7], order_cache=tmp_path)
    (kept,) = tmp_path.iterdir()
    with written_aside(kept) as mine:
        mine.write_bytes(kept.read_bytes())
    dead, living = (  # 2**22 + 1 is beyond any number that Linux gives
        mine.with_name(mine.name.replace(f".{os.getpid()}.", f".{process}.")) for process in (2**22 + 1, 1)
    )
    for part in (dead, living):
        part.touch()
    kept.unlink()
    make_plan([30, 50, 7], order_cache=tmp_path)
    assert set(tmp_path.iterdir()) == {kept, living}


def test_opening_a_plan_takes_no_more_than_40_bytes_a_sample():
    count = 400_000
    heights, widths = np.random.default_rng(0).integers(100, 900, (2, count), dtype=np.int32)
    shards = np.arange(count, dtype=np.int32) // 1000
    tracemalloc.start()
    Plan(
        [Part(heights, widths, shards=shards)],
        buckets=official_buckets(256),
        global_batch=64,
        seed=0,
        small_buckets="merge",
        distance="linear",
        streams=16,
        window=8,
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * count
