"""The trials by name, and what came out of them as a record and as a table."""

import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pixart.benchmark import record as benchmark
from pixart.config import Cadence, Config, Positive, Rate, Section, Seed, parse
from pixart.torture import disk, faults
from pixart.torture.bench import Bench
from pixart.torture.cases import Case, Outcome, try_all
from pixart.torture.moments import Blow, strikes
from pixart.torture.syscalls import unsupported
from pixart.torture.warming import warm

_SHOWN = 20  # problems of a trial that the table names


class Trial(Section):
    """How a trial is made.

    ``every``: of its cases each so-manieth is tried; ``number``: of signals, for those that have no cases of their own;
    ``patience``: seconds that ranks have to end by themselves; ``pictures``: are compared too; ``run``: keys of the
    run, by their path.
    """

    processes: Positive
    every: Positive
    number: Cadence
    patience: Rate
    pictures: bool
    run: dict[str, Any]


_FAULTS: dict[str, Callable[[Bench], Iterator[Case]]] = {
    "writes": faults.writes,
    "power": faults.power,
    "disk": disk.disk,
}


def chosen(trials: Mapping[str, Mapping[str, Any]], names: str | Sequence[str]) -> dict[str, Trial]:
    """The trials called ``names``, or all of them.

    Raises:
        ValueError: there is none of a name, or its settings are wrong.
    """
    wanted = list(trials) if names == "all" else [names] if isinstance(names, str) else list(names)
    if unknown := [name for name in wanted if name not in trials]:
        raise ValueError(f"trial={unknown[0]}: there is none of that name; choose all or of {', '.join(trials)}")
    return {name: parse(dict(trials[name]), Trial) for name in wanted}


def torture(
    values: Mapping[str, Any],
    trials: Mapping[str, Trial],
    *,
    at_once: int,
    seed: Seed,
    scratch: Path | None,
    say: Callable[[str], None],
) -> list[Outcome]:
    """Run ``trials`` on the run that ``values`` describe; ``at_once`` cases at the same time.

    What they write lies under ``scratch`` (None: in memory where the system has a place for that) and is deleted
    afterwards. Raises ``ValueError`` where a run does not go through even untouched, or nothing can be watched here.
    """
    if trials.keys() & _FAULTS.keys() and (reason := unsupported()):
        raise ValueError(f"{reason}: leave out the trials {', '.join(trials.keys() & _FAULTS.keys())}")
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="pixart-torture-", dir=scratch or _in_memory()) as folder:
        warm(_config(values, {}), Path(folder) / "warm")
        for name, trial in trials.items():
            say(f"trial {name}")
            bench = Bench(_config(values, trial.run), trial.processes, Path(folder) / name, trial.pictures)
            bench.folder.mkdir()
            outcomes.append(_outcome(name, trial, bench, at_once=at_once, seed=seed))
            shutil.rmtree(bench.folder)
    return outcomes


def _in_memory() -> Path | None:
    place = Path("/dev/shm")
    return place if place.is_dir() else None


def _config(values: Mapping[str, Any], changes: Mapping[str, Any]) -> Config:
    changed = _copied(dict(values))
    for path, value in changes.items():
        *sections, key = path.split(".")
        section = changed
        for name in sections:
            section = section[name]
        section[key] = value
    return parse(changed, Config)


def _copied(values: dict[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) if isinstance(value, dict) else value for key, value in values.items()}


def _outcome(name: str, trial: Trial, bench: Bench, *, at_once: int, seed: int) -> Outcome:
    began = time.monotonic()
    if name in _FAULTS:
        cases = list(_FAULTS[name](bench))[:: trial.every]
    else:
        sent = signal.SIGTERM if name == "stop" else signal.SIGKILL
        blow = Blow(sent, trial.patience, requeue=name == "stop")
        cases = list(strikes(bench, number=trial.number, lanes=at_once, seed=seed, blow=blow))
    problems = try_all(cases, bench.folder / "cases", at_once=at_once)
    notes = bench.folder / "notes"
    said = notes.read_text().splitlines() if notes.exists() else []
    tried = len(cases) if name in _FAULTS else trial.number
    return Outcome(name, tried, problems, said, time.monotonic() - began)


def record(outcomes: Sequence[Outcome], settings: dict[str, Any]) -> dict[str, Any]:
    """The outcomes with all that is needed to come to them again."""
    about = benchmark.record((), settings)
    del about["figures"]
    return about | {"trials": [outcome._asdict() for outcome in outcomes]}


def as_table(outcomes: Sequence[Outcome]) -> str:
    """One line a trial, then notes, and the first problems of each."""
    lines = [f"{'trial':10}{'tried':>8}{'wrong':>8}{'seconds':>10}"]
    lines += [f"{o.trial:10}{o.tried:>8}{len(o.problems):>8}{o.seconds:>10.1f}" for o in outcomes]
    lines += [f"{o.trial}: note: {note}" for o in outcomes for note in o.notes]
    for outcome in outcomes:
        lines += [f"{outcome.trial}: wrong: {problem}" for problem in outcome.problems[:_SHOWN]]
        if more := outcome.problems[_SHOWN:]:
            lines.append(f"{outcome.trial}: and {len(more)} more: json= takes a file that names all")
    return "\n".join(lines)
