"""Contenders are timed in turns, in an order that is random and can be had again."""

import os
import time
from functools import partial

import numpy as np
import pytest
import torch

from pixart.benchmark.timing import Spread, interleaved, one_core


def worked_in(seed: int) -> list[str]:
    worked: list[str] = []

    def work(name: str) -> int:
        worked.append(name)
        return 1

    interleaved({name: partial(work, name) for name in "abc"}, rounds=6, seed=seed)
    return worked


def test_each_contender_works_once_to_warm_up_and_once_in_each_of_6_rounds_in_a_seeded_order():
    orders = []
    for seed in (0, 0, 1):
        worked = worked_in(seed)
        assert worked[:3] == ["a", "b", "c"]
        rounds = [tuple(worked[i : i + 3]) for i in range(3, 21, 3)]
        assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
        assert len(set(rounds)) > 1
        orders.append(worked)
    assert orders[0] == orders[1] != orders[2]


def test_who_does_twice_the_units_in_the_same_time_is_twice_as_fast():
    def work(units: int) -> int:
        time.sleep(0.01)
        return units

    times = interleaved({"one": lambda: work(1), "two": lambda: work(2)}, rounds=5, seed=0)
    ratio = times.ratio("two", "one")
    assert ratio.low <= ratio.median <= ratio.high
    assert ratio.median == pytest.approx(2, rel=0.3)
    assert times.rate("one").median == pytest.approx(100, rel=0.3)
    assert times.processor["one"].max() < 0.01  # it slept


def test_a_spread_is_the_median_and_the_quartiles():
    assert Spread.of(np.array([4.0, 1.0, 2.0, 3.0, 5.0])) == (3.0, 2.0, 4.0)


def test_one_core_is_one_core_and_afterwards_all_of_them_again():
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    with one_core():
        assert len(os.sched_getaffinity(0)) == torch.get_num_threads() == 1
    assert (os.sched_getaffinity(0), torch.get_num_threads()) == (cores, threads)
