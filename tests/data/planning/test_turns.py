"""Laws of the turns of buckets and of the shares of parts: even at any time, and known at once for any k."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixart.data.planning.turns import PERIOD, Shares, Turns

rates = st.lists(st.floats(1e-4, 1e3), min_size=1, max_size=5).map(np.array)
sizes = st.integers(1, 300)


def given_by(shares: Shares, visits: range) -> np.ndarray:
    """How many samples each part gives to each of the visits."""
    before = [[shares.before(d, v) for v in (*visits, visits.stop)] for d in range(len(shares.least))]
    return np.diff(np.array(before), axis=1)


@given(rates, sizes, st.integers(0, 10**12))
@settings(max_examples=40, deadline=None)
def test_parts_fill_every_visit_exactly_with_their_least_or_one_more(weights: np.ndarray, size: int, first: int):
    shares = Shares(weights, size=size)
    counts = given_by(shares, range(first, first + 50))
    assert (counts.sum(axis=0) == size).all()
    more = counts - shares.least[:, None]
    assert ((more == 0) | (more == 1)).all()


@given(rates, sizes)
@settings(max_examples=15, deadline=None)
def test_4096_visits_give_each_part_its_share_to_a_few_samples_and_none_nothing(weights: np.ndarray, size: int):
    shares = Shares(weights, size=size)
    given = np.array([shares.before(d, PERIOD) for d in range(len(weights))])
    assert given.sum() == size * PERIOD
    assert given.min() >= 1
    assert abs(given - weights / weights.sum() * size * PERIOD).max() <= len(weights)
    assert given.tolist() == [shares.before(d, 2 * PERIOD) - given[d] for d in range(len(weights))]


@given(rates, sizes)
@settings(max_examples=15, deadline=None)
def test_no_part_is_ever_6_samples_away_from_its_share_of_the_visits_so_far(weights: np.ndarray, size: int):
    shares = Shares(weights, size=size)
    given = np.cumsum(given_by(shares, range(600)), axis=1)
    assert abs(given - np.arange(1, 601) * (shares.per_period / PERIOD)[:, None]).max() < 6


@given(rates, sizes, st.integers(0, 10**12), st.data())
@settings(max_examples=40, deadline=None)
def test_the_visit_of_an_element_is_the_one_that_takes_it(
    weights: np.ndarray, size: int, element: int, data: st.DataObject
):
    shares = Shares(weights, size=size)
    part = data.draw(st.integers(0, len(weights) - 1))
    visit = shares.visit_of(part, element)
    assert shares.before(part, visit) <= element < shares.before(part, visit + 1)


def test_a_lone_part_gives_the_whole_batch_to_every_visit():
    shares = Shares(np.array([3.0]), size=7)
    assert [shares.before(0, v) for v in (0, 1, 5, 10**9)] == [0, 7, 35, 7 * 10**9]


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6).map(np.array), st.integers(0, 2**64 - 1))
@settings(max_examples=20, deadline=None)
def test_each_bucket_has_its_visits_in_order_and_its_share_of_100_steps_to_within_2(weights: np.ndarray, seed: int):
    turns = Turns(weights, names=np.arange(len(weights), dtype=np.uint64), seed=seed)
    seen = np.zeros(len(weights), dtype=int)
    for k in range(100):
        place, visit = turns.at(k)
        assert visit == seen[place]
        seen[place] += 1
        assert (abs(seen - (k + 1) * weights / weights.sum()) <= 2 + len(weights)).all()


@pytest.mark.parametrize("k", [1, 10**7, 10**9])
def test_finding_step_k_weighs_no_more_than_6_events_a_bucket_whatever_k(k: int):
    weights = np.random.default_rng(0).random(40) * 1e5
    turns = Turns(weights, names=np.arange(40, dtype=np.uint64), seed=0)
    assert len(turns._window(k)[0]) <= 6 * 40
