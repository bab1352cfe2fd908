"""Speed and memory, side by side with the peers: ``python tools/benchmark.py suite=data json=data.json``."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pydantic import Field

from pixart.config import Positive, Section, Seed, parse
from pixart.door import door


class BenchmarkConfig(Section):
    """The keys of ``configs/benchmark.yaml``."""

    record: str | None = Field(alias="json")
    table: str | None
    rounds: Positive
    seed: Seed
    scratch: str | None
    suites: dict[str, dict[str, Any]]


def run(values: dict[str, Any]) -> None:
    """Measure, write the record after each figure where asked to, and print the table of all that came about."""
    asked = parse(values, BenchmarkConfig)
    from pixart.aside import write_atomically
    from pixart.benchmark.record import Figure, as_markdown, record, write_record
    from pixart.benchmark.suites import run_suites

    scratch = None if asked.scratch is None else Path(asked.scratch)
    written: dict[str, Any] = {}

    def keep(figures: Sequence[Figure]) -> None:
        written.update(record(figures, values))
        if asked.record is not None:
            write_record(Path(asked.record), written)

    try:
        run_suites(asked.suites, rounds=asked.rounds, seed=asked.seed, scratch=scratch, say=say, keep=keep)
    finally:
        if written:
            table = as_markdown(written)
            if asked.table is not None:
                write_atomically(Path(asked.table), table)
            print(table)


def say(line: str) -> None:
    """What is being measured."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    door("benchmark", run)()
