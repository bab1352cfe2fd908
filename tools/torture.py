"""Kill, cut off and starve a tiny run at every moment, and compare: ``python tools/torture.py json=torture.json``."""

import os
import sys
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: runs are forked, and threads are lost
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pydantic import Field

from pixart.config import Positive, Section, Seed, parse
from pixart.door import door


class TortureConfig(Section):
    """The keys that ``configs/torture.yaml`` adds to those of a run."""

    trial: Literal["all"] | str | tuple[str, ...]
    trials: dict[str, dict[str, Any]]
    at_once: Positive
    moments_seed: Seed
    scratch: str | None
    record: str | None = Field(alias="json")


OWN = tuple(field.alias or name for name, field in TortureConfig.model_fields.items())


def run(values: dict[str, Any]) -> None:
    """Torture, print the table and write the record; the exit code is 1 where anything came out wrong."""
    settings = dict(values)
    asked = parse({key: values.pop(key) for key in OWN}, TortureConfig)
    from pixart.benchmark.record import write_record
    from pixart.torture.suite import as_table, chosen, record, torture

    scratch = None if asked.scratch is None else Path(asked.scratch)
    trials = chosen(asked.trials, asked.trial)
    outcomes = torture(values, trials, at_once=asked.at_once, seed=asked.moments_seed, scratch=scratch, say=say)
    if asked.record is not None:
        write_record(Path(asked.record), record(outcomes, settings))
    print(as_table(outcomes))
    if any(outcome.problems for outcome in outcomes):
        sys.exit(1)


def say(line: str) -> None:
    """What is being done."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    door("torture", run)()
