"""Suites of figures: each a module of this package with its ``Settings`` and ``measure``, and its values in YAML."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pixart.benchmark.record import Figure
from pixart.config import Section, parse


class Run(NamedTuple):
    """What all suites of one run share."""

    rounds: int  # of each comparison
    seed: int  # of the order of the contenders, and of made-up data
    folder: Path  # empty, for whatever a suite has to write
    say: Callable[[str], None]
    measured: tuple[Figure, ...]  # by the suites before this one


class Suite(Protocol):
    """What a module of this package is that ``configs/suite/<its name>.yaml`` chooses."""

    Settings: type[Section]

    def measure(self, settings: Any, run: Run) -> Iterator[Figure]:
        """Each figure as soon as it is known."""


def run_suites(
    chosen: Mapping[str, Mapping[str, Any]],
    *,
    rounds: int,
    seed: int,
    scratch: Path | None,
    say: Callable[[str], None],
) -> list[Figure]:
    """The figures of the suites ``chosen`` (name -> its settings), one suite after another.

    What they write lies under ``scratch`` (None: the system's folder for such things) and is deleted afterwards.
    Raises ``ValueError`` naming a setting that is wrong, before anything is measured.
    """
    found = [(name, import_module(f"pixart.benchmark.{name}")) for name in chosen]
    ready = [(name, suite, parse(dict(chosen[name]), suite.Settings)) for name, suite in found]
    figures: list[Figure] = []
    for name, suite, settings in ready:
        with tempfile.TemporaryDirectory(prefix="pixart-benchmark-", dir=scratch) as folder:
            say(f"suite {name}")
            figures += suite.measure(settings, Run(rounds, seed, Path(folder), say, tuple(figures)))
    return figures
