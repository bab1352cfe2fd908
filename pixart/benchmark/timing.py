"""Contenders timed in turns: what disturbs the machine for a while disturbs all of them alike."""

import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

Contender = Callable[[], int]  # does its work once, and returns how many units that was


class Spread(NamedTuple):
    """A quantity measured many times."""

    median: float
    low: float  # lower quartile
    high: float  # upper quartile

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> "Spread":
        """The quartiles of ``values`` (rounds,)."""
        low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
        return cls(float(median), float(low), float(high))


class Times:
    """Seconds that each contender took for a unit in each round: of the clock, and of the processor."""

    def __init__(self, clock: Mapping[str, NDArray[np.float64]], processor: Mapping[str, NDArray[np.float64]]):
        """``clock`` and ``processor`` by contender, (rounds,) each."""
        self.clock, self.processor = dict(clock), dict(processor)

    def rate(self, name: str) -> Spread:
        """Units a second."""
        return Spread.of(1 / self.clock[name])

    def ratio(self, name: str, against: str) -> Spread:
        """How many times as fast ``name`` is as ``against``, each round compared within itself."""
        return Spread.of(self.clock[against] / self.clock[name])

    def processor_ratio(self, name: str, against: str) -> Spread:
        """The same by seconds of the processor, which other processes of the machine do not lengthen."""
        return Spread.of(self.processor[against] / self.processor[name])


def interleaved(contenders: Mapping[str, Contender], *, rounds: int, seed: int) -> Times:
    """Let each contender work once to warm up and once in each of ``rounds``, in a new random order each time."""
    order = np.random.default_rng(seed)
    clock: dict[str, list[float]] = {name: [] for name in contenders}
    processor: dict[str, list[float]] = {name: [] for name in contenders}
    for contender in contenders.values():
        contender()
    with _settled_memory():
        for _ in range(rounds):
            for name in order.permutation(list(contenders)).tolist():
                gc.collect()  # nobody pays for what another one left behind
                began, worked = time.perf_counter(), time.process_time()
                units = contenders[name]()
                processor[name].append((time.process_time() - worked) / units)
                clock[name].append((time.perf_counter() - began) / units)
    return Times(*({n: np.array(v) for n, v in times.items()} for times in (clock, processor)))


@contextmanager
def _settled_memory() -> Iterator[None]:
    """Collections look at what is new alone, so that they stay short."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def one_core() -> Iterator[None]:
    """This process, and whatever it starts, on one core with one thread.

    Afterwards torch's small products on the CPU are slower for the rest of the process, attention of short sequences
    three times: once its number of threads was set, MKL starts threads within threads.
    """
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, {max(cores)})
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        os.sched_setaffinity(0, cores)
