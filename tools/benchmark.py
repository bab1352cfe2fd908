"""Speed and memory, side by side with the peers: ``python tools/benchmark.py suite=data json=data.json``."""

import sys
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
    """Measure, print the table, and write the record where asked to."""
    asked = parse(values, BenchmarkConfig)
    from pixart.benchmark.record import as_markdown, record, write_record
    from pixart.benchmark.suites import run_suites

    scratch = None if asked.scratch is None else Path(asked.scratch)
    figures = run_suites(asked.suites, rounds=asked.rounds, seed=asked.seed, scratch=scratch, say=say)
    values = record(figures, values)
    if asked.record is not None:
        write_record(Path(asked.record), values)
    if asked.table is not None:
        Path(asked.table).write_text(as_markdown(values), encoding="utf-8")
    print(as_markdown(values))


def say(line: str) -> None:
    """What is being measured."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    door("benchmark", run)()
