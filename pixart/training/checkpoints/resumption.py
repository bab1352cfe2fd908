"""What a run keeps in a checkpoint, and how it takes it up again."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from pixart.training.checkpoints.background import Background
from pixart.training.checkpoints.checkpoint import STATE, Checkpoints
from pixart.training.checkpoints.host_copy import Copied, HostCopy
from pixart.training.checkpoints.pieces import Division, PiecesReader
from pixart.training.checkpoints.state import joined, places, restore, split, state_of
from pixart.training.loop import Learner


class Resumption:
    """The state of a learner into a checkpoint and back; all ranks call it together.

    As a context it waits, at the end of its block, for a checkpoint that is still being written.

    Args:
        run_dir: for what is said.
        background: write while training goes on; no more is waited for than a copy to host memory.
        fingerprint: of the data and their plan; a resume over others is refused.
        quarantine: what is left out of the data, in words; None for nothing.
    """

    def __init__(
        self, run_dir: Path, checkpoints: Checkpoints, *, background: bool, fingerprint: str, quarantine: str | None
    ):
        self.run_dir = run_dir
        self.checkpoints = checkpoints
        self.fingerprint = fingerprint
        self.quarantine = quarantine
        self._division = Division(checkpoints.ranks)
        self._copy = HostCopy()
        self._background = Background(beside=background)
        self._saved: int | None = None  # the step of the last checkpoint

    def resume(self, learner: Learner) -> bool:
        """Take up the newest good checkpoint, if there is one; all ranks read it, each what it holds.

        Raises:
            ValueError: the checkpoint was made over another plan or of another model, or none of those there can be
                read.
        """
        folder = self.checkpoints.newest()
        if folder is None:
            return False
        values = json.loads((folder / STATE).read_text(encoding="utf-8"))
        self._refuse_other_data(values)
        reader = PiecesReader(folder)
        try:
            tensors = places(learner, reader.stored())
        except ValueError as error:
            raise ValueError(f"checkpoint {folder} is of another model: {error}; set another run_dir") from None
        reader.read_into(tensors)
        restore(learner, joined(tensors, values))
        self._saved = learner.progress.step
        return True

    def _refuse_other_data(self, state: dict[str, Any]) -> None:
        was = state["quarantine"]
        if state["plan"] != self.fingerprint and was != self.quarantine:
            raise ValueError(
                f"{self.run_dir} was made under {was or 'no quarantine'}, and data.quarantine is now "
                f"{self.quarantine or 'null'}: go on under the earlier one, or start a new run from its weights "
                f"(init_from={self.run_dir} run_dir=…)"
            )
        if state["plan"] != self.fingerprint:
            raise ValueError(
                f"the data of {self.run_dir} have changed since its checkpoint was written: "
                "put them back as they were, or set another run_dir"
            )

    def save(self, learner: Learner) -> None:
        """Begin the checkpoint of the present step, or write it, as ``background`` says; the one before is finished.

        Raises:
            ValueError: on every rank alike, in one sentence: the one before (or this) could not be written.
        """
        self.finish()
        step = learner.progress.step
        learner.faults.gather(learner.progress.samples_seen)
        if step == self._saved:
            return
        tensors, values = split({**state_of(learner), "plan": self.fingerprint, "quarantine": self.quarantine})
        pieces = self._division.mine(tensors)
        copied = self._copy(pieces) if self._background.beside else Copied(pieces, lambda: None)
        text = json.dumps(values)  # now: training goes on to change what it is made of
        self._background.start(lambda: self._write(step, copied, text))
        self._saved = step

    def _write(self, step: int, copied: Copied, values: str) -> None:
        copied.wait()
        self.checkpoints.write(step, copied.pieces, values)

    def finish(self) -> None:
        """Wait for a checkpoint that is being written, so that it lies there whole.

        Raises:
            ValueError: on every rank alike, in one sentence: it could not be written.
        """
        self._background.finish()

    def __enter__(self) -> "Resumption":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.finish()
            elif (met := self._background.settle()) is not None:
                self.checkpoints.warn(str(met))
        finally:
            self._background.close()


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """The state in a checkpoint's folder, whole and on the CPU, as nested mappings; nothing is verified."""
    return joined(PiecesReader(folder).read(), json.loads((folder / STATE).read_text(encoding="utf-8")))
