"""What all trials share: the run that is tortured, and how it ends when nobody touches it."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from pixart.config import Config
from pixart.torture.comparison import EndState, differences, end_state
from pixart.torture.operations import Operation
from pixart.torture.ranks import Ended, Judge, Prepare, Ranks, Verdict, nothing

LIMIT = 120.0  # seconds within which any run of a trial must have ended, or it hangs
_LAST = 1000  # letters of what a rank printed


@dataclass(frozen=True)
class Bench:
    """A run, ready to be started again and again in one folder or another.

    Args:
        folder: for the trial; the untouched run lies in it.
        pictures: are compared too.
    """

    config: Config
    world_size: int
    folder: Path
    pictures: bool

    @property
    def root(self) -> Path:
        """The directory of the untouched run."""
        return self.folder.resolve() / "untouched" / "run"

    def note(self, line: str) -> None:
        """Write down what a reader of the outcome should know; from any process."""
        with (self.folder / "notes").open("a") as notes:
            notes.write(f"{line}\n")

    def start(self, at: Path, *, watched: bool = False, prepare: Prepare = nothing, said: Path | None = None) -> Ranks:
        """The run in ``at``/run, started or taken up again; what it prints goes to ``said``, or to ``at``/said."""
        run_dir = at.resolve() / "run"
        run_dir.mkdir(parents=True, exist_ok=True)
        config = self.config.model_copy(update={"run_dir": str(run_dir)})
        root = run_dir if watched else None
        return Ranks(config, self.world_size, said or at / "said", prepare=prepare, root=root)

    def run(
        self, at: Path, judge: Judge | None = None, *, prepare: Prepare = nothing, said: Path | None = None
    ) -> Ended:
        """The run in ``at``/run to its end, watched if there is a judge."""
        with self.start(at, watched=judge is not None, prepare=prepare, said=said) as ranks:
            return ranks.end(LIMIT, judge)

    def empty(self) -> Path:
        """The directory of the untouched run, made anew."""
        shutil.rmtree(self.root.parent, ignore_errors=True)
        self.root.mkdir(parents=True)
        return self.root

    def untouched(self, judge: Judge | None = None, prepare: Prepare = nothing) -> EndState:
        """How the run ends when nobody touches it; it must lie in an ``empty`` directory.

        Raises:
            ValueError: it does not end well even so.
        """
        ended = self.run(self.root.parent, judge, prepare=prepare)
        if any(ended.codes):
            raise ValueError(f"the run does not go through though nobody touches it: {told(ended)}")
        state = end_state(self.root, pictures=self.pictures)
        if state.left:
            raise ValueError(f"a run that nobody touches leaves {', '.join(state.left)} behind")
        return state

    def operations(self) -> tuple[EndState, list[Operation]]:
        """How it ends, and all that it does to its files on the way."""
        seen: list[Operation] = []

        def note(operation: Operation) -> Verdict:
            seen.append(operation)
            return "go on"

        self.empty()
        return self.untouched(note), seen

    def finish(self, at: Path, expected: EndState, *, said: Path | None = None) -> list[str]:
        """Take the run in ``at`` up and compare its end with ``expected``; returns what is wrong."""
        ended = self.run(at, said=said)
        if any(ended.codes):
            return [f"it could not be taken up: {told(ended)}"]
        return self.compared(at, expected)

    def compared(self, at: Path, expected: EndState) -> list[str]:
        """Where the finished run in ``at`` differs from ``expected``."""
        return differences(end_state(at / "run", pictures=self.pictures), expected)


def told(ended: Ended) -> str:
    """How a run ended, in words."""
    if not ended.in_time:
        return f"it hung, and was killed after {LIMIT:.0f} s"
    return ended.sentence or f"exit codes {ended.codes}: {' | '.join(map(_telling, ended.said))}"


def _telling(said: str) -> str:
    """The lines of an output that tell of an error, or its end."""
    lines = [" ".join(line.split()) for line in said.splitlines()]
    errors = [line for line in lines if re.search(r"Error|what\(\)|terminate", line)]
    return " … ".join(errors)[-_LAST:] or " ".join(lines)[-_LAST:]
