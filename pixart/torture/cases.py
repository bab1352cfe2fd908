"""Cases of a trial, several at once: each in a process of its own, with a folder of its own."""

import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple


class Case(NamedTuple):
    """One thing that is done to a run.

    ``try_it`` is given an empty folder and returns sentences: what came out wrong, none if all is well.
    """

    name: str
    try_it: Callable[[Path], list[str]]


class Outcome(NamedTuple):
    """What came out of a trial."""

    trial: str
    tried: int
    problems: list[str]  # each with the name of its case
    notes: list[str]
    seconds: float


def try_all(cases: Sequence[Case], folder: Path, *, at_once: int) -> list[str]:
    """Try all cases, ``at_once`` at a time; returns the problems of all, each with the name of its case."""
    workers = [_fork(cases, folder / f"worker_{first}", first, at_once) for first in range(min(at_once, len(cases)))]
    problems: list[str] = []
    for child, reading in workers:
        with os.fdopen(reading) as file:
            told = file.read()
        os.waitpid(child, 0)
        problems += json.loads(told) if told else ["a process that tried cases died"]
    return problems


def _fork(cases: Sequence[Case], folder: Path, first: int, every: int) -> tuple[int, int]:
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    try:
        os.close(reading)
        with os.fdopen(writing, "w") as file:
            json.dump(_tried(cases[first::every], folder), file)
    finally:
        if sys.exc_info()[1] is not None:
            traceback.print_exc()
        os._exit(0)


def _tried(cases: Sequence[Case], folder: Path) -> list[str]:
    problems = []
    for case in cases:
        folder.mkdir(parents=True)
        problems += [f"{case.name}: {problem}" for problem in case.try_it(folder)]
        shutil.rmtree(folder)
    return problems
