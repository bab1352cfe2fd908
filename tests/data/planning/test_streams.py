"""Laws of the fixed sub-streams: passes are bijections, ranges of shards stay put, windows bound what is open."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pixart.data.planning.order import Order
from pixart.data.planning.streams import Group, Streams, firsts
from pixart.data.planning.turns import Shares
from pixart.data.randomness import mixed


def make_group(lengths: list[int], *, size: int, rates: tuple[float, ...] = (1.0,), name: int = 1) -> Group:
    """One part with ``lengths`` rows in its shards, all of one bucket, and a share of batches of ``size``."""
    shards = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    order = Order([None], [shards], [np.zeros(len(shards), dtype=np.uint16)], num_buckets=1, cache=None)
    return Group(order, part=0, bucket=0, name=mixed(name), shares=Shares(np.array(rates), size=size), share=0)


def read(group: Group, visits: int, *, streams: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Streams and places of all that the first ``visits`` visits take."""
    reader = Streams(streams=streams, window=window, seed=5)
    drawn = [reader.drawn(group, visit) for visit in range(visits)]
    return np.concatenate([one.streams for one in drawn]), np.concatenate([one.places for one in drawn])


lengths_of_shards = st.lists(st.integers(1, 30), min_size=1, max_size=8)
mixtures = st.sampled_from([(1.0,), (0.3, 1.0), (2.0, 0.7, 5.0), (0.01, 1.0)])


@given(st.integers(0, 500), st.integers(1, 70))
@settings(max_examples=40, deadline=None)
def test_the_first_of_each_stream_divides_the_samples_of_a_visit_as_evenly_as_whole_numbers_can(count: int, many: int):
    of = np.arange(count) * many // max(count, 1)
    assert firsts(count, many).tolist() == [int((of < j).sum()) for j in range(many + 1)]
    assert np.ptp(np.diff(firsts(count, many))) <= 1


@given(lengths_of_shards, st.integers(1, 25), mixtures, st.integers(1, 9), st.integers(0, 10**9))
@settings(max_examples=40, deadline=None)
def test_samples_by_stream_are_what_counting_them_gives(
    lengths: list[int], size: int, rates: tuple[float, ...], streams: int, visit: int
):
    group = make_group(lengths, size=size, rates=rates)
    start = group.before(visit)
    expected = group.by_stream(start, streams)
    assert expected.sum() == start
    for later in range(visit, visit + 6):
        count = group.before(later + 1) - group.before(later)
        for q in range(count):
            expected[q * streams // count] += 1
            assert group.by_stream(group.before(later) + q + 1, streams).tolist() == expected.tolist()


@given(lengths_of_shards, st.integers(1, 25), mixtures, st.integers(1, 9), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_every_pass_has_every_row_once(
    lengths: list[int], size: int, rates: tuple[float, ...], streams: int, window: int
):
    group = make_group(lengths, size=size, rates=rates)
    visits = min(400, 3 * group.count // max(1, group.least) + 3)
    _, places = read(group, visits, streams=streams, window=window)
    for first in range(0, len(places) - group.count + 1, group.count):
        assert sorted(places[first : first + group.count]) == list(range(group.count))


@given(st.lists(st.integers(1, 30), min_size=8, max_size=30), st.integers(1, 8), st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_a_stream_never_has_more_shards_open_than_its_window(lengths: list[int], streams: int, window: int):
    group = make_group(lengths, size=8)
    shard_of = np.repeat(np.arange(len(lengths)), lengths)
    of, places = (column[: group.count] for column in read(group, -(-group.count // 8), streams=streams, window=window))
    for stream in range(streams):
        shards = shard_of[places[of == stream]]
        opened = [int(np.flatnonzero(shards == shard)[0]) for shard in np.unique(shards)]
        closed = [int(np.flatnonzero(shards == shard)[-1]) for shard in np.unique(shards)]
        for time in range(len(shards)):
            assert sum(o <= time <= c for o, c in zip(opened, closed, strict=True)) <= window


def test_8_streams_over_32_equal_shards_keep_to_the_same_4_of_them_in_every_pass():
    group = make_group([10] * 32, size=16)
    of, places = read(group, 5 * 20, streams=8, window=2)
    owned = [{int(place) // 10 for place in places[of == stream]} for stream in range(8)]
    assert [len(shards) for shards in owned] == [4] * 8
    assert set.union(*owned) == set(range(32))


@given(mixtures, st.integers(2, 16))
@settings(max_examples=8, deadline=None)
def test_in_a_mixture_a_stream_strays_by_2_shards_at_most_from_pass_to_pass(rates: tuple[float, ...], streams: int):
    group = make_group([40] * 64, size=96, rates=rates)
    if group.least < 2 * streams:  # too few samples a visit to fill the streams evenly
        return
    of, places = read(group, 4 * group.count // group.least, streams=streams, window=3)
    for stream in range(streams):
        assert len({int(place) // 40 for place in places[of == stream]}) <= 64 / streams + 4


def test_the_shards_come_in_a_new_order_in_each_pass_and_in_the_same_for_all_buckets():
    one, other = (make_group([4] * 20, size=8, name=name) for name in (1, 2))
    runs = [read(group, 20, streams=2, window=1) for group in (one, other)]
    shards = [places[of == 0] // 4 for of, places in runs]
    np.testing.assert_array_equal(*shards)
    assert sorted(shards[0][:40]) == sorted(shards[0][40:])
    assert shards[0][:40:4].tolist() != shards[0][40::4].tolist()
    assert runs[0][1].tolist() != runs[1][1].tolist()  # but each bucket shuffles its windows in its own way


def test_a_stream_owns_the_same_shards_in_every_bucket():
    shards = np.repeat(np.arange(12, dtype=np.int32), 10)
    order = Order([None], [shards], [np.arange(120, dtype=np.uint16) % 10 // 6], num_buckets=2, cache=None)  # 6 and 4
    owned = []
    for bucket, size in ((0, 12), (1, 8)):
        shares = Shares(np.ones(1), size=size)
        of, places = read(
            Group(order, part=0, bucket=bucket, name=mixed(bucket), shares=shares, share=0), 6, streams=4, window=2
        )
        owned.append([set(shards[order.rows[places[of == stream]]].tolist()) for stream in range(4)])
    assert [len(some) for some in owned[0]] == [3] * 4
    assert owned[0] == owned[1]


def test_a_window_shuffles_its_shards_together():
    of, places = read(make_group([50] * 4, size=10), 20, streams=1, window=2)
    shards = places // 50
    for half in (shards[:100], shards[100:]):
        assert len(set(half)) == 2
        assert (np.diff(half) != 0).sum() > 25
    assert not of.any()


def test_a_group_that_a_visit_reads_whole_is_permuted_pass_by_pass():
    _, places = read(make_group([2, 1], size=20), 3, streams=4, window=1)
    passes = places.reshape(20, 3)
    assert (np.sort(passes) == [0, 1, 2]).all()
    assert len({tuple(one) for one in passes}) > 3


def test_passes_that_are_no_longer_read_are_forgotten(monkeypatch):
    monkeypatch.setattr("pixart.data.planning.streams._PIECES_HELD", 30)
    group = make_group([3] * 10, size=5)
    reader = Streams(streams=2, window=2, seed=5)
    fresh = [reader.drawn(group, visit).places.tolist() for visit in range(60)]
    assert 1 <= len(reader._passes) <= 3
    assert [reader.drawn(group, visit).places.tolist() for visit in range(60)] == fresh


def test_threads_that_plan_at_the_same_time_find_what_one_finds(monkeypatch):
    monkeypatch.setattr("pixart.data.planning.streams._PIECES_HELD", 30)
    group = make_group([3] * 10, size=5)
    alone, together = (Streams(streams=2, window=2, seed=5) for _ in range(2))
    expected = [alone.drawn(group, visit).places.tolist() for visit in range(60)] * 4
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda visit: together.drawn(group, visit).places.tolist(), list(range(60)) * 4))
    assert found == expected
