"""The loader: global batches in order, their micro-batches made ahead of need by worker processes."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from pixart.batch import Batch
from pixart.data.dataset import Cut, Examples, cuts

_AHEAD = 2  # micro-batches that each worker may hold ready: with them, the bound of the loader's memory


class Step(NamedTuple):
    """This rank's share of one global batch."""

    k: int
    global_batch: int  # samples over all ranks
    cuts: tuple[Cut, ...]  # one for each micro-batch
    batches: Iterator[Batch]  # the micro-batches, in order, each made once; read them before the next step


def loader(
    examples: Examples,
    ks: Sequence[int],
    *,
    micro_batch: int,
    world_size: int,
    rank: int,
    num_workers: int,
    pin_memory: bool,
) -> Iterator[Step]:
    """The steps numbered ``ks``, in that order, equal for any ``num_workers`` (0 reads in this process).

    An error in a worker is raised here as it was there, in the step it belongs to. Closing the iterator, or leaving
    it, ends the workers.
    """
    plan = examples.plan

    def mine(k: int) -> list[Cut]:
        return cuts(plan.global_batch(k), micro_batch=micro_batch, world_size=world_size, rank=rank, k=k)

    made = _iterated(_Carrying(examples), (cut for k in ks for cut in mine(k)), num_workers, pin_memory)
    try:
        batches = map(_raised, made)
        for k in ks:
            step = Step(k, plan.global_batch(k), tuple(mine(k)), islice(batches, len(mine(k))))
            yield step
            for _ in step.batches:  # what the caller did not read
                pass
    finally:
        if hasattr(made, "_shutdown_workers"):  # a caller may still hold an iterator that would keep them alive
            made._shutdown_workers()


def _iterated(dataset: "_Carrying", order: Iterator[Cut], num_workers: int, pin_memory: bool) -> Iterator[Any]:
    # A forked child must not touch CUDA that its parent has started, not even by accident.
    start_method = "forkserver" if torch.cuda.is_initialized() else "fork"
    return iter(
        DataLoader(
            dataset,
            batch_size=None,  # a cut is a batch already
            sampler=order,
            collate_fn=_as_it_is,
            num_workers=num_workers,
            prefetch_factor=_AHEAD if num_workers else None,
            multiprocessing_context=start_method if num_workers else None,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # or it would draw from the global one
        )
    )


class _Carrying(Dataset[Batch | Exception]):
    """Examples, with errors as values: raised in a worker they would arrive wrapped in its traceback."""

    def __init__(self, examples: Examples):
        self._examples = examples

    def __getitem__(self, cut: Cut) -> Batch | Exception:
        try:
            return self._examples[cut]
        except (ValueError, OSError) as error:
            return error


def _as_it_is(batch: Any) -> Any:
    return batch


def _raised(batch: Batch | Exception) -> Batch:
    if isinstance(batch, Exception):
        raise batch
    return batch
