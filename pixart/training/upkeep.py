"""Looking after a run before each step: log, validate, draw, snapshot, checkpoint; say when it is done or stopped."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pixart.batch import Batch
from pixart.training.checkpoints.resumption import Resumption
from pixart.training.evaluation import Pictures, validate
from pixart.training.log import Log
from pixart.training.loop import Learner
from pixart.training.processes.stopping import Stopping
from pixart.training.run_directory import RunDirectory
from pixart.training.snapshots import Snapshots


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
        held_out: this rank's batches of the validation set, None for none.
    """

    directory: RunDirectory
    cadence: Cadence
    log: Log
    resumption: Resumption
    snapshots: Snapshots
    pictures: Pictures | None
    held_out: Callable[[], Iterator[Batch]] | None
    stopping: Stopping
    looked_after: int = -1  # the step whose upkeep a resumed run had behind it

    def resume(self, learner: Learner) -> bool:
        """Take up the latest checkpoint, if there is one; all ranks read it.

        Raises:
            ValueError: the checkpoint was made over another plan, or none of those there can be read.
        """
        resumed = self.resumption.resume(learner)
        if resumed:
            self.looked_after = learner.progress.step
        self.log.cut_back(learner, self.looked_after)
        return resumed

    def __call__(self, learner: Learner) -> bool:
        """Do what is due; True after the last step, and where the run was asked to stop."""
        step = learner.progress.step
        done = step >= learner.pace.steps
        if step != self.looked_after:
            self._do(learner, done)
        elif done and step and self.cadence.snapshot and self._lacks_snapshot(step):
            self.snapshots.write(learner)  # stopped, or saved on its way, at what has now become the last step
        if done or not self.stopping.due(step):
            return done
        self._stop(learner)
        return True

    def _lacks_snapshot(self, step: int) -> bool:
        """As the first process sees it: all must think alike."""
        return self.resumption.checkpoints.ranks.from_first(not self.directory.snapshot(step).exists())

    def _do(self, learner: Learner, done: bool) -> None:
        step = learner.progress.step

        def due(every: int) -> bool:
            return bool(every) and (step % every == 0 or done)

        if step and due(self.cadence.log):
            self.log(learner)
        if due(self.cadence.validate) and self.held_out is not None:
            with self.log.ledger.spent_on("validation"):
                self.log.record(learner, validate(learner, self.held_out))
        if due(self.cadence.sample) and self.pictures is not None:
            with self.log.ledger.spent_on("sampling"):
                self.pictures.write(learner, self.directory.sample(step))
        if step and due(self.cadence.snapshot):
            with self.log.ledger.spent_on("snapshots"):
                self.snapshots.write(learner)
        if step and due(self.cadence.checkpoint):
            with self.log.ledger.spent_on("checkpoints"):
                self.resumption.save(learner)

    def _stop(self, learner: Learner) -> None:
        """Save what there is, and only then ask to go on; a second signal cuts neither off."""
        with self.stopping.signals.undisturbed():
            with self.log.ledger.spent_on("checkpoints"):
                self.resumption.save(learner)
                self.resumption.finish()
            if learner.accelerator.is_main_process:
                self.log.ledger.write(samples_seen=learner.progress.samples_seen)
                self.stopping.ask_to_go_on(step=learner.progress.step, steps=learner.pace.steps)
            learner.accelerator.wait_for_everyone()
