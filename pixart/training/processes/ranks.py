"""What the processes of a run say to each other on the side, on the CPU, whatever training exchanges meanwhile."""

from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

PATIENCE = timedelta(hours=2)  # a rank may wait that long for another one's slow disk; a dead one is noticed at once

T = TypeVar("T")


class Ranks:
    """A gloo group of its own, so that a thread may use it; without a process group, the one process alone.

    All processes must make it together. One thread of each may use it at a time, all in the same order.
    """

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.size = dist.get_world_size() if together else 1
        self._group: Any = dist.new_group(backend="gloo", timeout=PATIENCE) if self.size > 1 else None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def gathered(self, value: T) -> list[T]:
        """What each rank gives, in their order, on all of them."""
        values: list[Any] = [value] * self.size
        if self._group is not None:
            dist.all_gather_object(values, value, group=self._group)
        return values

    def from_first(self, value: T) -> T:
        """What rank 0 gives, on all of them."""
        values: list[Any] = [value]
        if self._group is not None:
            dist.broadcast_object_list(values, src=0, group=self._group)
        return values[0]
