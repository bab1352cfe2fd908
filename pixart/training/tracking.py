"""What a run says about itself: averages kept on the device, ``metrics.jsonl``, and the trackers of Accelerate."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from pixart.aside import write_atomically


class Averages:
    """Running means that stay on the device until someone asks.

    ``add`` costs no host sync; ``flush`` costs one, with one gather over the ranks, and starts again from zero.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.sums: dict[str, Tensor] = {}  # name -> (2,) float64: sum and count

    def add(self, name: str, values: Tensor) -> None:
        """``values``: any shape, one observation an element."""
        self.add_weighted(name, values, torch.ones_like(values, dtype=torch.float64))

    def add_weighted(self, name: str, values: Tensor, weights: Tensor) -> None:
        """The same with a weight an element, 0 for one that does not count."""
        pair = torch.stack([(values.detach().double() * weights).sum(), weights.sum()])
        self.sums[name] = self.sums[name] + pair if name in self.sums else pair

    def expect(self, *names: str) -> None:
        """Make room for ``names``, so that a rank which observes nothing still takes part in the gather."""
        for name in names:
            self.sums.setdefault(name, torch.zeros(2, dtype=torch.float64, device=self.accelerator.device))

    def gathered(self) -> dict[str, Tensor]:
        """name -> (world_size, 2), the same on every rank. All ranks must call it, having the same names."""
        if not self.sums:
            return {}
        rows = self.accelerator.gather(torch.stack(list(self.sums.values()))[None])  # (W, names, 2)
        return {name: rows[:, i].cpu() for i, name in enumerate(self.sums)}

    def flush(self) -> dict[str, float]:
        """Means over all observations of all ranks since the last flush."""
        totals = {name: rows.sum(0).tolist() for name, rows in self.gathered().items()}
        self.sums.clear()
        return {name: total / count for name, (total, count) in totals.items() if count}

    def restore(self, gathered: dict[str, Tensor]) -> None:
        """Take up ``gathered`` again: each rank its own row, or rank 0 the sum if the world has another size now."""
        for name, rows in gathered.items():
            mine = rows.sum(0) if self.accelerator.is_main_process else torch.zeros(2, dtype=torch.float64)
            if len(rows) == self.accelerator.num_processes:
                mine = rows[self.accelerator.process_index]
            self.sums[name] = mine.to(self.accelerator.device)


class MetricsFile:
    """``metrics.jsonl``: one JSON object a line, each with its ``step``."""

    def __init__(self, path: Path):
        self.path = path

    def cut_back(self, step: int) -> None:
        """Forget what was logged after ``step``, and a last line that a kill left half-written."""
        if not self.path.exists():
            return
        kept = [line for line in self.path.read_text(errors="replace").splitlines() if _step_of(line) <= step]
        write_atomically(self.path, "".join(f"{line}\n" for line in kept))

    def write(self, *entries: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write("".join(json.dumps(values) + "\n" for values in entries))


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def start_tracker(accelerator: Accelerator, *, name: str, project: str, run_dir: Path, config: dict[str, Any]) -> None:
    """Start wandb or tensorboard through Accelerate; wandb without a key stays offline rather than ask for one."""
    if name == "none":
        return
    if name == "wandb" and not (os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE")):
        os.environ["WANDB_MODE"] = "offline"
    options = {"wandb": {"dir": str(run_dir), "name": run_dir.name}}  # or it writes where it was started
    accelerator.init_trackers(
        project, config={key: str(value) for key, value in config.items()}, init_kwargs={name: options.get(name, {})}
    )
