"""Train a stage: ``accelerate launch train.py +stage=2 data.root=…``, or ``python train.py +stage=2 scale=tiny``."""

import os
import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pixart.build.sweeping import refuse_shared_runs
from pixart.config import Config, parse
from pixart.door import door
from pixart.training.processes.stopping import Signals


class Bar:
    """The progress bar of the first process; the others show nothing."""

    def __init__(self, steps: int, *, visible: bool):
        self.console = Console(quiet=not visible, soft_wrap=True)
        self.progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not (visible and self.console.is_terminal),
        )
        self.task = self.progress.add_task("train", total=steps, numbers="")
        self.progress.start()

    def update(self, step: int, values: dict[str, float]) -> None:
        """Show what was logged at ``step``: on a bar, or as a line where the output is not a terminal."""
        shown = {"loss": ".4f", "validation_loss": ".4f", "images_per_second": ".1f"}
        numbers = "  ".join(f"{name} {values[name]:{style}}" for name, style in shown.items() if name in values)
        self.progress.update(self.task, completed=step, numbers=numbers)
        if not self.console.is_terminal:
            self.say(f"step {step}  {numbers}")

    def say(self, message: str) -> None:
        """Print a message above the bar."""
        self.console.print(message, markup=False, highlight=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self.progress.stop()


def train(values: dict[str, Any]) -> None:
    """Validate, then build and run; what is slow to import comes after what a typing error would stop."""
    config = parse(values, Config)
    with Signals():  # heard already, they are acted on when there is a run to stop
        from pixart.build.training import run_training

        ended = run_training(config, lambda visible: Bar(config.steps, visible=visible))
    first = int(os.environ.get("RANK", "0")) == 0
    if ended.stopped_by is not None:
        if first:
            print(f"stopped at step {ended.step} of {config.steps} ({ended.stopped_by}): run the same command to go on")
        sys.exit()  # the other jobs of a sweep do not begin
    if first and config.preflight != "only":
        print(f"done: {ended.run_dir}")


INTERRUPTED = (
    "interrupted: the same command goes on from the run's last checkpoint; SIGTERM in place of Ctrl-C saves one first"
)

main = door("train", train, before_sweep=refuse_shared_runs, interrupted=INTERRUPTED)

if __name__ == "__main__":
    main()
