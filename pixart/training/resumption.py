"""What a run keeps in a checkpoint, and how it takes it up again."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pixart.training.checkpoint import Checkpoints
from pixart.training.loop import Learner, Progress


@dataclass
class Resumption:
    """The state of a learner into a checkpoint and back; all ranks call it together.

    Args:
        run_dir: for what is said.
        fingerprint: of the data and their plan; a resume over others is refused.
        quarantine: what is left out of the data, in words; None for nothing.
    """

    run_dir: Path
    checkpoints: Checkpoints
    fingerprint: str
    quarantine: str | None

    def resume(self, learner: Learner) -> bool:
        """Take up the latest checkpoint, if there is one; all ranks read it.

        Raises:
            ValueError: the checkpoint was made over another plan, or none of those there can be read.
        """
        state = self.checkpoints.latest()
        if state is None:
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
        return True

    def _refuse_other_data(self, state: dict[str, Any]) -> None:
        was = state.get("quarantine")  # an older version of this project wrote none
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
        """Write the checkpoint of the present step."""
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
