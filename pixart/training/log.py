"""The log of a run: means since the last line, speed and memory, bad samples, and updates that were not made."""

import time
from contextlib import closing
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from accelerate.utils import gather_object

from pixart.batch import Batch
from pixart.training.guard import first_bad_module
from pixart.training.ledger import Ledger
from pixart.training.loop import Learner, micro_loss
from pixart.training.processes.sharding import is_sharded, plain
from pixart.training.tracking import MetricsFile
from pixart.training.work import peak_tflops, used


class Display(Protocol):
    """Where the first rank shows how far it is; the doors decide what that looks like."""

    def update(self, step: int, values: dict[str, float]) -> None: ...

    def say(self, message: str) -> None: ...

    def close(self) -> None: ...


@dataclass
class Log:
    """Writes ``metrics.jsonl``, the ledger, the trackers and the display; all ranks call it together."""

    metrics: MetricsFile
    ledger: Ledger
    display: Display
    on_nonfinite: Literal["stop", "skip"]
    window: tuple[float, int] = (0.0, 0)  # time and samples seen at the last log step

    def cut_back(self, learner: Learner, step: int) -> None:
        """Forget what was logged after ``step``, and count speed from now."""
        if learner.accelerator.is_main_process:
            self.metrics.cut_back(step)
            learner.faults.file.cut_back(step)
        self.window = (time.perf_counter(), learner.progress.samples_seen)

    def record(self, learner: Learner, values: dict[str, float]) -> None:
        """Write ``values`` as those of the present step."""
        progress = learner.progress
        if learner.accelerator.is_main_process:
            self.metrics.write({"step": progress.step, "samples_seen": progress.samples_seen, **values})
            self.display.update(progress.step, values)
        learner.accelerator.log(values, step=progress.step)

    def __call__(self, learner: Learner) -> None:
        """One line: everything since the last one."""
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
            **used(learner.flops, seconds, peak_tflops(learner.accelerator.device)),
            "data_wait": learner.data_wait / seconds,
            "memory": _peak_memory(learner.accelerator.device),
            **learner.faults.window(seen),
        }
        learner.data_wait, learner.flops = 0.0, 0
        self.record(learner, values)
        if learner.accelerator.is_main_process:
            self.ledger.write(samples_seen=seen)

    def _report_nonfinite(self, learner: Learner, count: int, k: int) -> None:
        with closing(learner.read(k)) as reading:
            held = list(next(reading).batches)
        culprit = _first_bad_module(learner, held)
        mine = ", ".join(key for batch in held for key in batch.keys[:4])
        everyone: list[tuple[str | None, str]] = gather_object([(culprit, mine)])
        module, keys = next((one for one in everyone if one[0]), everyone[0])  # its rank is where it began
        where = f"first in module {module}" if module else "in the backward pass alone"
        message = (
            f"{count} update(s) were not finite and were not made; the first is global batch {k} ({keys} …), {where}"
        )
        if self.on_nonfinite == "stop":
            raise ValueError(
                f"{message}: lower optimizer.lr, set precision=fp32 or fp32_attention, or on_nonfinite=skip"
            )
        self.display.say(message)


@torch.no_grad()
def _first_bad_module(learner: Learner, batches: list[Batch]) -> str | None:
    bare = learner.bare
    # A sharded model runs on all ranks at once, and they need not fail in the same place.
    model = plain(bare, bare.state_dict()) if is_sharded(bare) else bare
    with learner.accelerator.autocast():
        culprit = first_bad_module(model, lambda: [micro_loss(learner, model, batch) for batch in batches])
    learner.averages.sums.clear()
    return culprit


def _peak_memory(device: torch.device) -> float:
    """Most memory held so far, in GiB: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
