"""Who takes which part of a global batch."""

from typing import NamedTuple


class Cut(NamedTuple):
    """Positions ``start`` .. ``stop`` - 1 of global batch ``k``: one micro-batch."""

    k: int
    start: int
    stop: int


def cuts(global_batch: int, *, micro_batch: int, world_size: int, rank: int, k: int) -> list[Cut]:
    """The micro-batches of ``rank``: equally many on every rank, at most ``micro_batch`` positions each, none empty.

    The global batch is cut into the fewest pieces, a multiple of ``world_size``, that are small enough; their sizes
    differ by at most one. Rank r takes the r-th run of them, so all ranks together take every position once.
    Raises ``ValueError`` where there are fewer positions than pieces.
    """
    per_rank = -(-global_batch // (micro_batch * world_size))
    pieces = per_rank * world_size
    if pieces > global_batch:
        raise ValueError(
            f"global_batch={global_batch} cannot be shared by {world_size} processes in equally many micro-batches of "
            f"1 to {micro_batch}: make it a multiple of the number of processes, or raise micro_batch"
        )
    mine = range(rank * per_rank, (rank + 1) * per_rank)
    return [Cut(k, i * global_batch // pieces, (i + 1) * global_batch // pieces) for i in mine]
