"""Figures of contenders that did the same work in turns: rates, shares of ceilings, ratios of ours to theirs."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pixart.benchmark.record import Figure
from pixart.benchmark.timing import Spread, Times

FLOAT8 = "ours_float8"
OURS = {"ours_compiled": "", "ours": "plain_", FLOAT8: "float8_"}  # contender -> what its ratios' names begin with
PEERS = ("eager", "compiled")
CEILING = "matmul"  # the contender that does the layers' products alone
RATIOS = frozenset(f"{prefix}ratio_vs_{peer}" for prefix in OURS.values() for peer in PEERS)
SHARES = frozenset({"tflops", "share_of_matmul", "mfu"})


def ratios(times: Times) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """(name, seconds of ours over seconds of the peer's in each round), for each pair that was timed."""
    for name, prefix in OURS.items():
        for peer in PEERS:
            if {name, peer} <= times.clock.keys():
                yield f"{prefix}ratio_vs_{peer}", times.clock[name] / times.clock[peer]


class Speed(NamedTuple):
    """``times`` of contenders by name, and of ``CEILING``, and what the same work is in operations."""

    suite: str
    case: str
    times: Times
    unit: str  # of the work, as "images"
    flops: int  # of a unit
    layers_flops: int  # of a unit, without attention: what ``CEILING`` does
    peak: float | None  # TFLOP/s that the device is sold for
    targets: Mapping[str, str]
    best: str = "ours_compiled"  # the contender that targets are for

    def figures(self) -> Iterator[Figure]:
        """Every contender by itself, then ours over theirs."""
        ceiling = self.layers_flops / 1e12 / self.times.clock[CEILING]
        yield self._figure("matmul ceiling at the step's own sizes", ceiling, "TFLOP/s")
        for name, seconds in self.times.clock.items():
            if name != CEILING:
                yield from self._alone(name, seconds, ceiling)
        for key, ratio in ratios(self.times):
            yield self._figure(key, ratio, "of its time")

    def _alone(self, name: str, seconds: NDArray[np.float64], ceiling: NDArray[np.float64]) -> Iterator[Figure]:
        tflops = self.flops / 1e12 / seconds
        for key, values, unit in (
            (f"{self.unit}_per_second", 1 / seconds, f"{self.unit}/s"),
            ("tflops", tflops, "TFLOP/s"),
            ("share_of_matmul", tflops / ceiling, "of the ceiling"),
            *([] if self.peak is None else [("mfu", tflops / self.peak, "of the device's peak")]),
        ):
            yield self._figure(f"{name} {key}", values, unit, self.targets.get(key) if name == self.best else None)

    def _figure(self, key: str, values: NDArray[np.float64], unit: str, target: str | None = None) -> Figure:
        return Figure.spread(
            self.suite, f"{self.case}: {key}", Spread.of(values), unit, target or self.targets.get(key)
        )
