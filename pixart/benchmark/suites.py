"""Suites of figures: each a module of this package with its ``Settings`` and ``measure``, and its values in YAML."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from traceback import clear_frames
from typing import Any, NamedTuple, Protocol

from pixart.benchmark.device import forget_compiled, pick
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
    """What a module of this package is that ``configs/suite/<its name>.yaml`` chooses.

    It may have ``check(settings)`` too, which raises ``ValueError`` for what can be known before anything is measured;
    a ``device`` among its settings is looked for then in any case.
    """

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
    keep: Callable[[Sequence[Figure]], None] = lambda _: None,
) -> list[Figure]:
    """The figures of the suites ``chosen`` (name -> its settings), one suite after another.

    What they write lies under ``scratch`` (None: the system's folder for such things) and is deleted afterwards.
    ``keep`` is given all figures so far after each new one: what ends a run, or a machine, is not to take them along.

    Raises ``ValueError`` naming a setting that is wrong, before anything is measured. A suite that fails is told of
    and the others are measured; then its error is raised, or ``ValueError`` naming all of several.
    """
    found = [(name, import_module(f"pixart.benchmark.{name}")) for name in chosen]
    ready = [(name, suite, _parsed(name, chosen[name], suite)) for name, suite in found]
    figures: list[Figure] = []
    failed: dict[str, Exception] = {}
    for name, suite, settings in ready:
        _check(name, suite, settings)
    for name, suite, settings in ready:
        with tempfile.TemporaryDirectory(prefix="pixart-benchmark-", dir=scratch) as folder:
            say(f"suite {name}")
            try:
                for figure in suite.measure(settings, Run(rounds, seed, Path(folder), say, tuple(figures))):
                    figures.append(figure)
                    keep(figures)
            except Exception as error:  # noqa: BLE001 (whatever it is, it is raised once the others are measured)
                if len(ready) > 1:
                    say(f"suite {name} failed: {type(error).__name__}: {error}")
                failed[name] = error
                _let_go(error)
            finally:
                forget_compiled()  # the next suite may need the whole device, and in other processes
    if len(failed) > 1:
        told = "; ".join(f"{name}: {error!r}" for name, error in failed.items())
        raise ValueError(f"{len(failed)} of {len(ready)} suites failed: {told}") from ExceptionGroup(
            "suites", list(failed.values())
        )
    for only in failed.values():
        raise only
    return figures


def _parsed(name: str, settings: Mapping[str, Any], suite: Any) -> Section:
    try:
        parsed: Section = parse(dict(settings), suite.Settings)
    except ValueError as error:
        raise ValueError(f"suites.{name}: {error}") from None
    return parsed


def _check(name: str, suite: Any, settings: Section) -> None:
    try:
        if hasattr(settings, "device"):
            pick(settings.device)
        getattr(suite, "check", lambda _: None)(settings)
    except ValueError as error:
        raise ValueError(f"suites.{name}: {error}") from None


def _let_go(error: BaseException) -> None:
    """Clear the frames of ``error`` and of what led to it: they would hold a suite's models while others measure."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) not in seen:
            seen.add(id(one))
            clear_frames(one.__traceback__)
            waiting += [other for other in (one.__cause__, one.__context__) if other is not None]
