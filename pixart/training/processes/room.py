"""The disk that a run will need: its checkpoints and snapshots to come."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pixart.training.processes.ranks import Ranks


class Cadences(NamedTuple):
    """Every so many steps, 0 for never, and how many of the newest checkpoints stay."""

    checkpoint: int
    snapshot: int
    keep: int
    keep_every: int


@dataclass(frozen=True)
class Room:
    """What is written after step ``first``, the last one there is, until step ``last``.

    Args:
        checkpoint: bytes of one.
        snapshot: bytes of those of one step, of all averages.
        there: checkpoints in the folder already, which go as others come.
    """

    first: int
    last: int
    checkpoint: int
    snapshot: int
    there: int
    cadences: Cadences

    @property
    def least(self) -> int:
        """Bytes for the newest checkpoints, and one more: it is whole before an old one goes."""
        coming = _times(self.first, self.last, self.cadences.checkpoint)
        return self.checkpoint * min(coming, self.cadences.keep + 1 - min(self.there, self.cadences.keep))

    @property
    def whole(self) -> int:
        """Bytes for all that will be there in the end."""
        every, for_good = self.cadences.checkpoint, self.cadences.keep_every
        both = math.lcm(every, for_good)  # 0 where either never happens
        kept = self.last // both - self.first // both if both and self.last > self.first else 0
        return (
            self.least + self.checkpoint * kept + self.snapshot * _times(self.first, self.last, self.cadences.snapshot)
        )


def _times(first: int, last: int, every: int) -> int:
    """How often something happens after step ``first``, every so many steps and after the last."""
    return last // every - first // every + (last % every > 0) if every and last > first else 0


def check_room(ranks: Ranks, folder: Path, room: Room) -> tuple[int, str | None]:
    """Free bytes as rank 0 sees them, and a warning where the whole run will not fit.

    Raises:
        ValueError: on all ranks, where not even the newest checkpoints fit.
    """
    free = ranks.from_first(shutil.disk_usage(folder).free)
    if free < room.least:
        raise ValueError(
            f"run_dir {folder} has {in_words(free)} left, and {room.cadences.keep} checkpoints and one in the making "
            f"take {in_words(room.least)}: free space there, set run_dir=… to another disk, or lower keep_checkpoints"
        )
    if free < room.whole:
        return free, (
            f"run_dir {folder} has {in_words(free)} left and the whole run will write {in_words(room.whole)}: free "
            "space in time, or raise snapshot_every or keep_every"
        )
    return free, None


def in_words(count: float) -> str:
    """Bytes as people say them."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
