"""Looking after a run before each step: log, validate, draw, snapshot, checkpoint, and say when it is done."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import torch

from pixart.batch import Batch
from pixart.formats.snapshot import write_snapshot
from pixart.training.checkpoint import Checkpoints
from pixart.training.evaluation import Pictures, validate
from pixart.training.guard import first_bad_module
from pixart.training.ledger import Ledger
from pixart.training.loop import Learner, Progress, micro_loss
from pixart.training.run_directory import RunDirectory
from pixart.training.tracking import MetricsFile


class Display(Protocol):
    """Where the first rank shows how far it is; the doors decide what that looks like."""

    def update(self, step: int, values: dict[str, float]) -> None: ...

    def say(self, message: str) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Cadence:
    """Every so many steps; 0 = never. All of it also happens after the last step."""

    log: int
    validate: int
    sample: int
    snapshot: int
    checkpoint: int


@dataclass
class Upkeep:
    """The run's surroundings, called by the loop before every step.

    Args:
        identity: what stands in each snapshot: ``model_config``, ``run_config``, ``stamps``, ``null_caption``.
        fingerprint: of the data and their plan; a resume over others is refused.
        quarantine: what is left out of the data, in words; None for nothing.
        held_out: this rank's batches of the validation set, None for none.
    """

    directory: RunDirectory
    checkpoints: Checkpoints
    metrics: MetricsFile
    ledger: Ledger
    cadence: Cadence
    display: Display
    identity: dict[str, Any]
    fingerprint: str
    quarantine: str | None
    pictures: Pictures | None
    held_out: Callable[[], Iterator[Batch]] | None
    on_nonfinite: Literal["stop", "skip"]
    looked_after: int = -1  # the step whose upkeep a resumed run had behind it
    window: tuple[float, int] = (0.0, 0)  # time and samples seen at the last log step

    def resume(self, learner: Learner) -> bool:
        """Take up the latest checkpoint, if there is one; all ranks read it.

        Raises:
            ValueError: the checkpoint was made over another plan, or none of those there can be read.
        """
        state = self.checkpoints.latest()
        if state is None:
            self._cut_back(learner, -1)
            return False
        self._refuse_other_data(state)
        learner.bare.load_state_dict(state["model"])
        learner.optimizer.load_state_dict(state["optimizer"])
        learner.ema.load_state_dict(state["ema"])
        learner.averages.restore(state["averages"])
        learner.faults.load_state_dict(state["faults"])
        learner.progress = Progress(**state["progress"])
        if learner.accelerator.scaler is not None and state["scaler"] is not None:
            learner.accelerator.scaler.load_state_dict(state["scaler"])
        self.looked_after = learner.progress.step
        self._cut_back(learner, learner.progress.step)
        return True

    def _refuse_other_data(self, state: dict[str, Any]) -> None:
        was = state.get("quarantine")  # an older version of this project wrote none
        if state["plan"] != self.fingerprint and was != self.quarantine:
            raise ValueError(
                f"{self.directory.path} was made under {was or 'no quarantine'}, and data.quarantine is now "
                f"{self.quarantine or 'null'}: go on under the earlier one, or start a new run from its weights "
                f"(init_from={self.directory.path} run_dir=…)"
            )
        if state["plan"] != self.fingerprint:
            raise ValueError(
                f"the data of {self.directory.path} have changed since its checkpoint was written: "
                "put them back as they were, or set another run_dir"
            )

    def _cut_back(self, learner: Learner, step: int) -> None:
        if learner.accelerator.is_main_process:
            self.metrics.cut_back(step)
            learner.faults.file.cut_back(step)
        self.window = (time.perf_counter(), learner.progress.samples_seen)

    def __call__(self, learner: Learner) -> bool:
        """Do what is due; True after the last step."""
        step = learner.progress.step
        done = step >= learner.pace.steps
        if step == self.looked_after:
            return done

        def due(every: int) -> bool:
            return bool(every) and (step % every == 0 or done)

        if step and due(self.cadence.log):
            self._log(learner)
        if due(self.cadence.validate) and self.held_out is not None:
            with self.ledger.spent_on("validation"):
                self._record(learner, validate(learner, self.held_out))
        if due(self.cadence.sample) and self.pictures is not None:
            with self.ledger.spent_on("sampling"):
                self.pictures.write(learner, self.directory.sample(step))
        if step and due(self.cadence.snapshot):
            with self.ledger.spent_on("snapshots"):
                self._snapshot(learner)
        if step and due(self.cadence.checkpoint):
            with self.ledger.spent_on("checkpoints"):
                self._checkpoint(learner)
        return done

    def _record(self, learner: Learner, values: dict[str, float]) -> None:
        progress = learner.progress
        if learner.accelerator.is_main_process:
            self.metrics.write({"step": progress.step, "samples_seen": progress.samples_seen, **values})
            self.display.update(progress.step, values)
        learner.accelerator.log(values, step=progress.step)

    def _log(self, learner: Learner) -> None:
        learner.faults.gather(learner.progress.samples_seen)
        if told := learner.faults.told():
            self.display.say(told)
        values = learner.averages.flush()
        skipped, first_bad_k = learner.guard.found()
        if skipped:
            self._report_nonfinite(learner, skipped, first_bad_k)
        now, seen = time.perf_counter(), learner.progress.samples_seen
        seconds, samples = now - self.window[0], seen - self.window[1]
        self.window = (now, seen)
        values |= {
            "lr": learner.optimizer.param_groups[0]["lr"],
            "skipped_updates": skipped,
            "images_per_second": samples / seconds,
            "data_wait": learner.data_wait / seconds,
            "memory": _peak_memory(learner.accelerator.device),
            **learner.faults.window(seen),
        }
        learner.data_wait = 0.0
        self._record(learner, values)
        if learner.accelerator.is_main_process:
            self.ledger.write(samples_seen=seen)

    def _report_nonfinite(self, learner: Learner, count: int, k: int) -> None:
        with closing(learner.read(k)) as reading:
            held = list(next(reading).batches)
        with torch.no_grad():
            culprit = first_bad_module(learner.bare, lambda: [micro_loss(learner, batch) for batch in held])
        learner.averages.sums.clear()
        keys = ", ".join(key for batch in held for key in batch.keys[:4])
        where = f"first in module {culprit}" if culprit else "in the backward pass alone"
        message = (
            f"{count} update(s) were not finite and were not made; the first is global batch {k} ({keys} …), {where}"
        )
        if self.on_nonfinite == "stop":
            raise ValueError(
                f"{message}: lower optimizer.lr, set precision=fp32 or fp32_attention, or on_nonfinite=skip"
            )
        self.display.say(message)

    def _snapshot(self, learner: Learner) -> None:
        if learner.accelerator.is_main_process:
            progress = learner.progress
            path = self.directory.snapshot(progress.step)
            path.parent.mkdir(parents=True, exist_ok=True)
            tensors = learner.ema.tensors()
            write_snapshot(path, tensors, step=progress.step, samples_seen=progress.samples_seen, **self.identity)
        learner.accelerator.wait_for_everyone()

    def _checkpoint(self, learner: Learner) -> None:
        averages = learner.averages.gathered()
        learner.faults.gather(learner.progress.samples_seen)
        scaler = learner.accelerator.scaler
        if learner.accelerator.is_main_process:
            self.checkpoints.save(
                learner.progress.step,
                {
                    "progress": asdict(learner.progress),
                    "model": learner.bare.state_dict(),
                    "optimizer": learner.optimizer.state_dict(),
                    "ema": learner.ema.state_dict(),
                    "averages": averages,
                    "faults": learner.faults.state_dict(),
                    "scaler": None if scaler is None else scaler.state_dict(),
                    "plan": self.fingerprint,
                    "quarantine": self.quarantine,
                },
            )
        learner.accelerator.wait_for_everyone()


def _peak_memory(device: torch.device) -> float:
    """Most memory held so far, in GiB: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
