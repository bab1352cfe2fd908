"""The loop: look after the run, then learn, then once the average and the progress."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pixart.batch import Batch, Denoiser
from pixart.data.loading import Step
from pixart.data.substitutes import NothingLeft
from pixart.diffusion.objective import Objective
from pixart.training.ema import Ema
from pixart.training.faults import Faults
from pixart.training.guard import Guard
from pixart.training.inputs import Inputs
from pixart.training.optim import LrDecay, rate_at, set_learning_rate, skip_if
from pixart.training.processes.sharding import gathered, unsynced
from pixart.training.tracking import Averages
from pixart.training.work import work


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0  # optimizer steps made
    k: int = 0  # global batch that comes next
    samples_seen: int = 0


@dataclass(frozen=True)
class Pace:
    """The numbers of the schedule."""

    steps: int
    warmup_steps: int
    lr_decay: LrDecay
    clip_norm: float


@dataclass
class Learner:
    """All that one optimizer step touches. ``model`` is what is trained through, ``bare`` the same without wrappers.

    ``bare`` is the one with the names; where it is sharded it is ``model``, and only all ranks together may call it.
    ``read(k)`` yields the global batches from k on, each with this rank's micro-batches of it.
    """

    accelerator: Accelerator
    model: nn.Module
    bare: nn.Module
    optimizer: torch.optim.Optimizer
    ema: Ema
    objective: Objective
    inputs: Inputs
    read: Callable[[int], Generator[Step, None, None]]
    pace: Pace
    guard: Guard
    averages: Averages
    faults: Faults
    progress: Progress = field(default_factory=Progress)
    data_wait: float = 0.0  # seconds spent waiting for the reader since the last log step
    flops: int = 0  # operations that this rank's batches asked for since then


def fit(learner: Learner, look_after: Callable[[Learner], bool]) -> None:
    """Train until ``look_after``, which is called before every step and after the last, says that it is done."""
    with closing(learner.read(learner.progress.k)) as batches:  # an error must not leave its workers to chance
        try:
            while not look_after(learner):
                _advance(learner, next(batches))
        except NothingLeft as error:
            learner.faults.write_last(learner.progress.step + 1, error.faults)
            raise


def _advance(learner: Learner, step: Step) -> None:
    progress = learner.progress
    learn(learner, step)
    learner.ema.update(learner.bare)
    progress.step += 1
    progress.k = step.k + 1
    progress.samples_seen += step.global_batch


def learn(learner: Learner, step: Step) -> None:
    """One optimizer step: the loss is the sum over the positions of a global batch divided by their number."""
    accelerator, progress, pace = learner.accelerator, learner.progress, learner.pace
    set_learning_rate(
        learner.optimizer,
        rate_at(progress.step, steps=pace.steps, warmup_steps=pace.warmup_steps, decay=pace.lr_decay),
    )
    for batch, is_last in _with_last(_waited(learner, step.batches)):
        learner.faults.note(progress.step + 1, batch.faults)
        learner.flops += work(learner.bare, batch)
        # Gradients travel once a step: with the last micro-batch.
        with nullcontext() if is_last else unsynced(accelerator, learner.model):
            # The mean over ranks is taken, sharded or not, and the sum is wanted.
            loss = micro_loss(learner, learner.model, batch)
            accelerator.backward(loss * (accelerator.num_processes / step.global_batch))
    norm = accelerator.clip_grad_norm_(learner.model.parameters(), pace.clip_norm)
    assert norm is not None
    norm = gathered(norm)
    if accelerator.scaler is None:  # a gradient scaler keeps a watch of its own
        skip_if(learner.optimizer, learner.guard.watch(norm, k=step.k))
    learner.optimizer.step()
    learner.optimizer.zero_grad()
    # Every rank has the same norm: together they observe it once, however many they are when the log asks.
    learner.averages.add_weighted(
        "grad_norm", norm, torch.full_like(norm, 1 / accelerator.num_processes, dtype=torch.float64)
    )


def micro_loss(learner: Learner, model: Denoiser, batch: Batch) -> Tensor:
    """The summed loss of ``model`` on one micro-batch; its parts go into the averages."""
    batch, latents, cond = learner.inputs(batch)
    t = learner.objective.timesteps(batch.u)
    x_t = learner.objective.add_noise(latents, batch.noise, t)
    output = model(x_t, t, cond)
    losses = learner.objective.losses(output, x0=latents, noise=batch.noise, x_t=x_t, t=t)
    for name, values in losses._asdict().items():
        learner.averages.add(name, values)
    return losses.loss.sum()


def _waited(learner: Learner, batches: Iterator[Batch]) -> Iterator[Batch]:
    while True:
        started = time.perf_counter()
        batch = next(batches, None)
        learner.data_wait += time.perf_counter() - started
        if batch is None:
            return
        yield batch


def _with_last(micro_batches: Iterator[Batch]) -> Iterator[tuple[Batch, bool]]:
    held = next(micro_batches)
    for following in micro_batches:
        yield held, False
        held = following
    yield held, True
