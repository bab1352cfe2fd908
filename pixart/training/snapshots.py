"""The snapshots of a run: averaged weights to use, with all that is needed to draw from them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pixart.formats.snapshot import write_snapshot
from pixart.training.loop import Learner
from pixart.training.processes.sharding import gathered
from pixart.training.run_directory import RunDirectory


@dataclass
class Snapshots:
    """Writes ``snapshots/``; all ranks call it together.

    The primary average becomes ``step_….safetensors``, each other one ``<its name>/step_….safetensors``.

    Args:
        identity: what stands in each: ``model_config``, ``run_config``, ``stamps``, ``null_caption``, ``licence``,
            ``run``.
    """

    directory: RunDirectory
    identity: dict[str, Any]

    def write(self, learner: Learner) -> None:
        """The snapshots of the present step, one of each average."""
        progress, main = learner.progress, learner.accelerator.is_main_process
        for name, profile in learner.ema.profiles.items():
            tensors = _whole(learner.ema.tensors(name), keep=main)
            if main:
                write_snapshot(
                    self._place(progress.step, None if name == learner.ema.primary else name),
                    tensors,
                    step=progress.step,
                    samples_seen=progress.samples_seen,
                    profile=profile.described(),
                    **self.identity,
                )
        learner.accelerator.wait_for_everyone()

    def _place(self, step: int, folder: str | None) -> Path:
        path = self.directory.snapshot(step)
        return path if folder is None else path.parent / folder / path.name


def _whole(tensors: dict[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """The tensors unsharded where they are kept, in host memory if they were sharded: one at a time is on the device.

    All ranks must ask together; the others get nothing.
    """
    held = {}
    for name, tensor in tensors.items():
        whole = gathered(tensor)
        if keep:
            held[name] = whole if whole is tensor else whole.cpu()
    return held
