"""Speed and memory beside the peers: ``python tools/benchmark.py suite=train_step json=train_step.json``."""

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pydantic import Field

from pixart.aside import refuse_no_file, refuse_unwritable, write_atomically
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
    refuse_places(asked)
    hush()
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


def refuse_places(asked: BenchmarkConfig) -> None:
    """``ValueError`` where what is to be written has no place, before minutes of measuring."""
    for key, path in (("json", asked.record), ("table", asked.table)):
        if path is not None:
            refuse_no_file(Path(path), key=key)
    if (
        asked.record is not None
        and asked.table is not None
        and Path(asked.record).resolve() == Path(asked.table).resolve()
    ):
        raise ValueError(f"json={asked.record} and table={asked.table} are one file: give each its own")
    priced = asked.suites.get("price", {}).get("record")
    for key, path in (("json", asked.record), ("table", asked.table)):
        if path is not None and priced is not None and Path(path).resolve() == Path(priced).expanduser().resolve():
            raise ValueError(f"{key}={path} would replace suites.price.record: give another file")
    if asked.scratch is not None:
        if not Path(asked.scratch).is_dir():
            raise ValueError(f"scratch={asked.scratch} is no folder: give one that exists, on the disk to measure")
        refuse_unwritable(Path(asked.scratch), key="scratch", inside=True)


def hush() -> None:
    """Let the libraries of the peers keep to themselves what they warn of and a table does not depend on."""
    for key, level in {
        "DIFFUSERS_VERBOSITY": "error",
        "TRANSFORMERS_VERBOSITY": "error",
        "KINETO_LOG_LEVEL": "5",
    }.items():
        os.environ.setdefault(key, level)  # read when they are imported
    logging.getLogger("xformers").setLevel(logging.ERROR)  # it has no kernels for this torch
    warnings.filterwarnings("ignore", message="Warning: Profiler clears events")


def say(line: str) -> None:
    """What is being measured."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    door("benchmark", run)()
