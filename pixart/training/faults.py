"""Bad samples in training: recorded by every rank, counted over all of them, and too many stop the run."""

from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from pixart.batch import Fault
from pixart.data.substitutes import LEAST_SEEN
from pixart.training.tracking import MetricsFile

_NAMED = 3  # keys that the sentence names


class Noted(NamedTuple):
    """A fault with the step that had it."""

    step: int
    fault: Fault


class Faults:
    """The faults of a run.

    A rank notes what its loader tells; ``gather``, which all ranks call together, brings the notes of all to
    ``bad_samples.jsonl``. Between two calls nothing is exchanged. Held-out samples are recorded, each once a start,
    and not counted. What counts are positions whose own sample was bad; bad substitutes are told apart.

    Args:
        path: of ``bad_samples.jsonl``.
        max_share: of the samples seen; with more bad ones than that (of ``LEAST_SEEN`` at least) the run stops.
    """

    def __init__(self, accelerator: Accelerator, path: Path, *, max_share: float):
        self.accelerator = accelerator
        self.file = MetricsFile(path)
        self.max_share = max_share
        self.total = 0  # positions of training whose own sample was bad, over all ranks
        self.since_log = 0  # of these, the ones gathered since ``window`` was last asked
        self.substitutes = 0  # bad ones that were tried in their place, gathered since then
        self.first: list[str] = []  # keys of the first ones
        self._pending: deque[Noted] = deque()
        self._held_out: set[tuple[int, int, str]] = set()  # k, position and key

    def note(self, step: int, faults: tuple[Fault, ...]) -> None:
        """Keep the faults of a micro-batch that counts for ``step``."""
        for fault in faults:
            if fault.k >= 0 or fault[:3] not in self._held_out:
                self._pending.append(Noted(step, fault))
            if fault.k < 0:
                self._held_out.add(fault[:3])

    def gather(self, samples_seen: int) -> None:
        """Bring the notes of all ranks together and into the file; one small exchange where there are none.

        Raises:
            ValueError: on every rank alike, where too many samples were bad.
        """
        pending = torch.tensor(len(self._pending), device=self.accelerator.device)
        if not int(self.accelerator.reduce(pending)):
            return
        mine, self._pending = list(self._pending), deque()
        # By place, and at one place in the order in which they were met.
        noted: list[Noted] = sorted(gather_object(mine), key=lambda one: (one.step, *one.fault[:2]))
        if self.accelerator.is_main_process:
            self._write(noted)
        self._count([one.fault for one in noted if one.fault.k >= 0])
        self._stop_if_too_many(samples_seen)

    def write_last(self, step: int, faults: tuple[Fault, ...]) -> None:
        """Write down ``faults``, which stop the run at ``step``, and the notes of this rank: no other is asked."""
        self.note(step, faults)
        mine, self._pending = list(self._pending), deque()
        self._write(mine)

    def _write(self, noted: list[Noted]) -> None:
        self.file.write(*({"step": one.step, **one.fault._asdict()} for one in noted))

    def _count(self, faults: list[Fault]) -> None:
        own = list({fault[:2]: fault.key for fault in reversed(faults)}.values())[::-1]  # the first of each position
        self.total += len(own)
        self.since_log += len(own)
        self.substitutes += len(faults) - len(own)
        self.first = [*self.first, *own][:_NAMED]

    def told(self) -> str | None:
        """What the display says of the bad samples since the last log; None where there were none."""
        if not self.since_log:
            return None
        return (
            f"{self.since_log} bad sample(s) were replaced, {self.total} so far, the first {self.first[0]}: "
            f"{self.file.path} names each and why"
        )

    def window(self, samples_seen: int) -> dict[str, float]:
        """What the log says: bad samples and bad substitutes since the last call, and the share of all so far."""
        since, substitutes, self.since_log, self.substitutes = self.since_log, self.substitutes, 0, 0
        share = self.total / max(1, samples_seen)
        return {"bad_samples": since, "bad_substitutes": substitutes, "bad_share": share}

    def _stop_if_too_many(self, samples_seen: int) -> None:
        if self.total > self.max_share * max(samples_seen, LEAST_SEEN):
            raise ValueError(
                f"{self.total} of {samples_seen} samples were bad ({self.total / max(1, samples_seen):.2%}), more than "
                f"data.max_bad_share={self.max_share} allows: {', '.join(self.first)} … ({self.file.path} names all "
                "and why); mend the shards, leave the keys out (tools/doctor.py writes a file for data.quarantine), or "
                "raise data.max_bad_share"
            )

    def state_dict(self) -> dict[str, Any]:
        return {
            "total": self.total,
            "since_log": self.since_log,
            "substitutes": self.substitutes,
            "first": self.first,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total, self.since_log, self.first = state["total"], state["since_log"], list(state["first"])
        self.substitutes = state.get("substitutes", 0)  # an older version of this project wrote none
