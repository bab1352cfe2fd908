"""The loader: global batches in order, their micro-batches made ahead of need by worker processes."""

from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import islice
from threading import Condition, Thread
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from pixart.batch import Batch
from pixart.data.dataset import Cut, Examples, cuts
from pixart.data.workers import heed_the_parent_alone, held_back

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
    ahead: int = 0,
) -> Generator[Step, None, None]:
    """The steps numbered ``ks``, in that order, equal for any ``num_workers`` (0 reads in this process).

    The source is told of what this rank reads in a step, ``ahead`` steps before it is asked for (0: not at all). An
    error in a worker is raised here as it was there, in the step it belongs to. Closing the iterator, or leaving it,
    ends the workers and what is fetched ahead.
    """
    plan = examples.plan

    def mine(k: int) -> list[Cut]:
        return cuts(plan.global_batch(k), micro_batch=micro_batch, world_size=world_size, rank=rank, k=k)

    def rows(place: int) -> NDArray[np.int64]:
        """Of the step at a place of ``ks``."""
        own = mine(ks[place])
        return plan.batch(ks[place]).rows[own[0].start : own[-1].stop]

    made = _iterated(_Carrying(examples), (cut for k in ks for cut in mine(k)), num_workers, pin_memory)
    # Its thread begins after the workers have been forked: in them it would be missing, and its locks might be held.
    outlook = _Outlook(examples.source.fetch_ahead, rows, len(ks), ahead) if ahead else None
    try:
        batches = map(_raised, made)
        for place, k in enumerate(ks):
            if outlook is not None:
                outlook.at(place)
            step = Step(k, plan.global_batch(k), tuple(mine(k)), islice(batches, len(mine(k))))
            yield step
            for _ in step.batches:  # what the caller did not read
                pass
    finally:
        if outlook is not None:
            outlook.end()
        if hasattr(made, "_shutdown_workers"):  # a caller may still hold an iterator that would keep them alive
            made._shutdown_workers()


class _Outlook(Thread):
    """Tells the source which rows will be read in the next steps, beginning with the present one."""

    def __init__(
        self,
        tell: Callable[[NDArray[np.int64]], None],
        rows: Callable[[int], NDArray[np.int64]],
        steps: int,
        ahead: int,
    ):
        super().__init__(daemon=True, name="look ahead")
        self._tell, self._rows, self._steps, self._ahead = tell, rows, steps, ahead
        self._place = 0
        self._ended = False
        self._changed = Condition()
        self.start()

    def at(self, place: int) -> None:
        """The step at ``place`` is being read."""
        with self._changed:
            self._place = place
            self._changed.notify()

    def end(self) -> None:
        """Nothing is needed any more."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self.join()
        self._tell(np.empty(0, np.int64))

    def run(self) -> None:
        """Look ahead from each place that the reading comes to; each step is planned once."""
        planned: dict[int, NDArray[np.int64]] = {}
        place = 0
        while not self._ended:
            view = range(place, min(place + self._ahead + 1, self._steps))
            planned = {step: planned[step] if step in planned else self._rows(step) for step in view}
            self._tell(np.concatenate([planned[step] for step in view]))
            with self._changed:
                while self._place == place and not self._ended:
                    self._changed.wait()
                place = self._place


def _iterated(dataset: "_Carrying", order: Iterator[Cut], num_workers: int, pin_memory: bool) -> Iterator[Any]:
    # A forked child must not touch CUDA that its parent has started, not even by accident.
    start_method = "forkserver" if torch.cuda.is_initialized() else "fork"
    loading = DataLoader(
        dataset,
        batch_size=None,  # a cut is a batch already
        sampler=order,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        prefetch_factor=_AHEAD if num_workers else None,
        multiprocessing_context=start_method if num_workers else None,
        worker_init_fn=heed_the_parent_alone,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # or it would draw from the global one
    )
    with held_back(tracked=num_workers > 0 and start_method != "fork"):
        return iter(loading)


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
