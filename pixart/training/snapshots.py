"""The snapshots of a run: averaged weights to use, with all that is needed to draw from them."""

from dataclasses import dataclass
from typing import Any

from pixart.formats.snapshot import write_snapshot
from pixart.training.loop import Learner
from pixart.training.run_directory import RunDirectory


@dataclass
class Snapshots:
    """Writes ``snapshots/``; all ranks call it together.

    Args:
        identity: what stands in each: ``model_config``, ``run_config``, ``stamps``, ``null_caption``, ``licence``.
    """

    directory: RunDirectory
    identity: dict[str, Any]

    def write(self, learner: Learner) -> None:
        """The snapshot of the present step."""
        if learner.accelerator.is_main_process:
            progress = learner.progress
            path = self.directory.snapshot(progress.step)
            path.parent.mkdir(parents=True, exist_ok=True)
            tensors = learner.ema.tensors()
            write_snapshot(path, tensors, step=progress.step, samples_seen=progress.samples_seen, **self.identity)
        learner.accelerator.wait_for_everyone()
