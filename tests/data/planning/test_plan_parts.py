"""Laws of the plan over several parts: even visits, shares of a mixture, ranks of any number, substitutes."""

import pickle
from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixart.data.buckets import Bucket
from pixart.data.dataset import cuts
from pixart.data.planning.plan import Part, Plan

BUCKETS = [Bucket(40, 56), Bucket(48, 48), Bucket(56, 40)]


@st.composite
def mixtures(draw: st.DrawFn, most: int = 60) -> list[Part]:
    """One to three parts of random buckets and shards, with weights or without."""
    weighted = draw(st.booleans())
    parts, rows, shards = [], 0, 0
    for _ in range(draw(st.integers(1, 3))):
        places = draw(st.lists(st.integers(0, 2), min_size=1, max_size=most))
        cuts = draw(st.lists(st.booleans(), min_size=len(places), max_size=len(places)))
        named = rows + np.arange(len(places)) * 2  # every second row of the source
        parts.append(
            Part(
                *np.array(BUCKETS)[places].T,
                rows=named,
                shards=(shards + np.cumsum(cuts)).astype(np.int32),
                weight=draw(st.floats(0.05, 9)) if weighted else None,
            )
        )
        rows, shards = int(named[-1]) + 1, shards + len(places) + 1
    return parts


def plan_of(parts: list[Part], **changes: object) -> Plan:
    settings = {"global_batch": 4, "seed": 7, "small_buckets": "repeat", "streams": 3, "window": 2}
    return Plan(parts, **{"buckets": BUCKETS, "distance": "linear", **settings, **changes})


def columns(parts: list[Part]) -> tuple[dict[int, int], dict[int, Bucket]]:
    """Of each row its part and its bucket."""
    of = {int(row): d for d, part in enumerate(parts) for row in part.rows}
    sizes = {
        int(row): Bucket(int(h), int(w))
        for part in parts
        for h, w, row in zip(part.heights, part.widths, part.rows, strict=True)
    }
    return of, sizes


streams = st.integers(1, 9)
windows = st.integers(1, 4)
seeds = st.integers(0, 2**64 - 1)
batches = st.lists(st.integers(1, 12), min_size=3, max_size=3)


@given(mixtures(), batches, seeds, streams, windows)
@settings(max_examples=30, deadline=None)
def test_in_a_mixture_visits_of_one_part_and_bucket_differ_by_at_most_one_at_every_step(
    parts: list[Part], sizes: list[int], seed: int, streams: int, window: int
):
    plan = plan_of(parts, global_batch=sizes, seed=seed, streams=streams, window=window)
    part_of, bucket_of = columns(parts)
    visits = Counter({row: 0 for row in part_of})
    for k in range(40):
        batch = plan.batch(k)
        visits.update(batch.rows.tolist())
        assert {bucket_of[row] for row in batch.rows.tolist()} == {batch.bucket}
        assert len(batch.rows) == sizes[BUCKETS.index(batch.bucket)] == plan.global_batch(k)
        groups: dict[tuple[int, Bucket], set[int]] = {}
        for row, count in visits.items():
            groups.setdefault((part_of[row], bucket_of[row]), set()).add(count)
        assert all(max(counts) - min(counts) <= 1 for counts in groups.values())


@given(mixtures(), batches, seeds)
@settings(max_examples=12, deadline=None)
def test_every_part_keeps_its_share_of_each_bucket_and_of_the_whole(parts: list[Part], sizes: list[int], seed: int):
    plan = plan_of(parts, global_batch=sizes, seed=seed)
    part_of, _ = columns(parts)
    given = np.zeros(len(parts))
    steps = 150
    for k in range(steps):
        np.add.at(given, [part_of[row] for row in plan.batch(k).rows.tolist()], 1)
    shares = np.array([part.got for part in plan.report().parts])
    assert shares.sum() == pytest.approx(1)
    assert abs(given - given.sum() * shares).max() <= 3 * (6 + 3 * max(sizes))  # of each bucket a few visits
    assert [part.asked for part in plan.report().parts] == pytest.approx(shares, abs=1e-3 * len(parts))


@given(mixtures(), st.integers(1, 4), st.integers(1, 64), st.integers(1, 5), st.integers(0, 10**9))
@settings(max_examples=25, deadline=None)
def test_the_ranks_of_any_world_from_1_to_64_share_the_same_global_batch_without_overlap(
    parts: list[Part], samples_of_a_rank: int, world_size: int, micro_batch: int, k: int
):
    size = samples_of_a_rank * world_size
    plan = plan_of(parts, global_batch=size)
    ranks = [cuts(size, micro_batch=micro_batch, world_size=world_size, rank=r, k=k) for r in range(world_size)]
    rows = [plan.batch(k).rows[cut.start : cut.stop].tolist() for rank in ranks for cut in rank]
    assert all(0 < len(some) <= micro_batch for some in rows)
    assert len({len(rank) for rank in ranks}) == 1
    assert list(chain(*rows)) == plan_of(parts, global_batch=size).batch(k).rows.tolist()


@pytest.mark.parametrize("world_size", [1, 2, 4, 16, 64])
@pytest.mark.parametrize("count", [1, 2])
def test_a_rank_reads_its_part_of_128_shards_and_2_more_of_each_part_at_most(count: int, world_size: int):
    shards, sides = np.repeat(np.arange(128, dtype=np.int32), 10), np.full((2, 1280), 48)
    parts = [Part(*sides, np.arange(1280) + 1280 * d, shards + 128 * d) for d in range(count)]
    plan = plan_of(parts, global_batch=64 * count, streams=64)
    for rank in range(0, world_size, max(1, world_size // 4)):
        (cut,) = cuts(64 * count, micro_batch=128, world_size=world_size, rank=rank, k=0)
        read = np.concatenate([plan.batch(k).rows[cut.start : cut.stop] for k in range(60)])
        opened = np.unique(read // 10) // 128
        assert np.bincount(opened).max() <= 128 // world_size + 2
        assert len(np.bincount(opened)) == count


@given(mixtures(most=20), st.integers(0, 10**9), st.data())
@settings(max_examples=25, deadline=None)
def test_a_batch_does_not_depend_on_what_was_planned_before_it(parts: list[Part], k: int, data: st.DataObject):
    plan, fresh = plan_of(parts), plan_of(parts)
    for other in data.draw(st.lists(st.integers(0, 10**9), max_size=5)):
        plan.batch(other)
        plan.substitute(other, 1, 2)
    np.testing.assert_array_equal(plan.batch(k).rows, fresh.batch(k).rows)


@given(mixtures(), st.integers(0, 10**9), st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_substitutes_are_all_the_others_of_the_bucket_and_part_before_one_comes_again(
    parts: list[Part], k: int, position: int
):
    plan, (part_of, bucket_of) = plan_of(parts), columns(parts)
    row = int(plan.batch(k).rows[position])
    alike = {other for other in part_of if (part_of[other], bucket_of[other]) == (part_of[row], bucket_of[row])}
    substitutes = [plan.substitute(k, position, attempt) for attempt in range(1, max(2, len(alike)))]
    assert set(substitutes) == (alike - {row} or {row})
    assert len(set(substitutes)) == len(substitutes)
    assert substitutes[0] == plan_of(parts).substitute(k, position, 1)


def test_weights_ask_for_shares_whatever_the_sizes_of_the_parts():
    small, large = (Part(*np.full((2, n), 48), np.arange(n) + 1000 * n, weight=w) for n, w in ((20, 3.0), (180, 1.0)))
    plan = plan_of([small, large], global_batch=8)
    rows = np.concatenate([plan.batch(k).rows for k in range(100)])
    assert (rows < 180_000).sum() == 600
    report = plan.report()
    assert [(part.samples, part.asked, part.got) for part in report.parts] == [(20, 0.75, 0.75), (180, 0.25, 0.25)]
    assert [part.steps_per_pass for part in report.parts] == pytest.approx([20 / 6, 90])
    assert report.steps_per_pass == pytest.approx(90)
    assert report.buckets[0].batches_per_pass == 90


def test_a_mixture_without_weights_is_its_concatenation_in_shares():
    parts = [Part(*np.full((2, n), 48), np.arange(n) + 1000 * n) for n in (30, 90)]
    report = plan_of(parts, global_batch=12).report()
    assert [part.got for part in report.parts] == [0.25, 0.75]
    assert [part.steps_per_pass for part in report.parts] == [10, 10]


def test_small_buckets_are_counted_over_all_parts():
    parts = [Part(*np.array([(40, 56)] * 3).T, np.arange(3) + 10 * i) for i in (0, 1)]
    (bucket,) = plan_of(parts, global_batch=6, small_buckets="refuse").report().buckets
    assert (bucket.samples, bucket.merged, bucket.share_of_steps) == (6, 0, 1.0)


@pytest.mark.parametrize(
    ("weights", "words"),
    [((1.0, None), "all left out"), ((0.0, 1.0), "positive"), ((-1.0, 2.0), "positive"), ((np.inf, 1.0), "positive")],
)
def test_weights_that_are_none_are_refused(weights: tuple[float | None, ...], words: str):
    parts = [Part(*np.full((2, 9), 48), np.arange(9) + 9 * i, weight=weight) for i, weight in enumerate(weights)]
    with pytest.raises(ValueError, match=words):
        plan_of(parts)


def test_an_empty_part_and_no_stream_and_no_window_are_refused():
    with pytest.raises(ValueError, match="data set 1 of the mixture"):
        plan_of([Part(*np.full((2, 9), 48)), Part(np.zeros(0), np.zeros(0))])
    for wrong in ({"streams": 0}, {"window": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            plan_of([Part(*np.full((2, 9), 48))], **wrong)


def test_a_plan_that_is_sent_to_a_worker_is_the_same_there():
    plan = plan_of([Part(*np.full((2, 40), 48), shards=np.repeat(np.arange(4, dtype=np.int32), 10))])
    plan.batch(3)
    there = pickle.loads(pickle.dumps(plan))
    np.testing.assert_array_equal(there.batch(8).rows, plan.batch(8).rows)
