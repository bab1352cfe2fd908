"""What each rank of a run is doing, told through shared memory while it runs."""

import mmap
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pixart.training.loop as loop
import pixart.training.upkeep as upkeep
from pixart.training.checkpoints.resumption import Resumption
from pixart.training.evaluation import Pictures
from pixart.training.log import Log
from pixart.training.snapshots import Snapshots

# Where a phase begins and ends: a function, by its owner and name. "start-up" is what comes before the first of them.
_FUNCTIONS: dict[str, tuple[Any, str]] = {
    "resuming": (Resumption, "resume"),
    "step": (loop, "learn"),
    "log": (Log, "__call__"),
    "validation": (upkeep, "validate"),
    "sampling": (Pictures, "write"),
    "snapshot": (Snapshots, "write"),
    "saving": (Resumption, "save"),
}
WRITING = "writing"  # a checkpoint's folder is on the disk and not final; seen from outside
PHASES = ("start-up", *_FUNCTIONS, WRITING)


class Phases:
    """Counts, for each rank and phase, how often it was entered, and adds up the seconds spent in it."""

    def __init__(self, world_size: int):
        memory = mmap.mmap(-1, 16 * world_size * len(PHASES))  # shared with all children
        self._numbers: NDArray[np.float64] = np.frombuffer(memory, dtype=np.float64).reshape(2, world_size, -1)
        self._is_writing = False

    @property
    def entered(self) -> NDArray[np.float64]:
        """(world_size, phases)"""
        return self._numbers[0]

    @property
    def seconds(self) -> NDArray[np.float64]:
        """(world_size, phases)"""
        return self._numbers[1]

    def prepare(self, rank: int) -> None:
        """Tell of this process, which is ``rank``, from now on."""
        began = time.monotonic()
        self.entered[rank, 0] += 1

        def started() -> None:
            if not self.seconds[rank, 0]:
                self.seconds[rank, 0] = time.monotonic() - began

        for phase, (owner, name) in _FUNCTIONS.items():
            setattr(owner, name, self._told(rank, PHASES.index(phase), getattr(owner, name), started))

    def _told(
        self, rank: int, phase: int, inner: Callable[..., Any], started: Callable[[], None]
    ) -> Callable[..., Any]:
        @wraps(inner)
        def told(*arguments: Any, **named: Any) -> Any:
            started()
            began = time.monotonic()
            self.entered[rank, phase] += 1
            try:
                return inner(*arguments, **named)
            finally:
                self.seconds[rank, phase] += time.monotonic() - began

        return told

    def look(self, run_dir: Path, passed: float) -> None:
        """Look at the disk from outside, ``passed`` seconds after the last look."""
        place, was = PHASES.index(WRITING), self._is_writing
        self._is_writing = next(run_dir.glob("checkpoints/.step_*"), None) is not None
        self.entered[:, place] += self._is_writing and not was
        self.seconds[:, place] += passed * self._is_writing

    def typical(self) -> dict[str, float]:
        """The mean seconds of one visit to each phase that was visited, over the ranks."""
        seconds, visits = self.seconds.sum(0), self.entered.sum(0)
        return {phase: float(seconds[i] / visits[i]) for i, phase in enumerate(PHASES) if visits[i]}
