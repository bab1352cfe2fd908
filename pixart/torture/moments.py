"""Trials ``kills``, ``sharded`` and ``stop``: signals at random moments, spread over all that a run does."""

import json
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pixart.torture.bench import LIMIT, Bench, told
from pixart.torture.cases import Case
from pixart.torture.comparison import EndState, end_state
from pixart.torture.phases import PHASES, Phases
from pixart.torture.ranks import Ended, Ranks
from pixart.training.processes.stopping import requeue_file

_LOOK_EVERY = 0.001  # seconds
_VISITS = 4  # a phase is struck at one of its first so many visits after a start
_ONCE = {"start-up", "resuming"}  # a start has one of each


class Moment(NamedTuple):
    """When to strike, and whom."""

    phase: str
    visit: int  # to that phase since the start, from 1
    delay: float  # as a share of what such a visit takes
    victim: int | None  # a rank, None for all


@dataclass(frozen=True)
class Blow:
    """What is done at a moment.

    Args:
        patience: seconds within which the other ranks are to end.
        requeue: the run is to end well and to leave a file of that name.
    """

    signal: signal.Signals
    patience: float
    requeue: bool


def strikes(bench: Bench, *, number: int, lanes: int, seed: int, blow: Blow) -> Iterator[Case]:
    """``number`` signals at random moments, dealt to ``lanes`` runs, each taken up again after every one of them."""
    bench.empty()
    phases = Phases(bench.world_size)
    with bench.start(bench.root.parent, prepare=phases.prepare) as ranks:
        _wait(ranks, phases, bench.root, lambda: False)
        ended = ranks.end(LIMIT)
    if any(ended.codes):
        raise ValueError(f"the run does not go through though nobody touches it: {told(ended)}")
    expected, typical = end_state(bench.root, pictures=bench.pictures), phases.typical()
    chosen = _moments(number, np.random.default_rng(seed), list(typical), bench.world_size, alone=blow.requeue)
    for lane in range(lanes):
        mine = chosen[lane::lanes]
        if mine:
            yield Case(f"lane {lane}", partial(_lane, bench, expected, typical, mine, blow))


def _moments(
    number: int, draw: np.random.Generator, phases: Sequence[str], world_size: int, *, alone: bool
) -> list[Moment]:
    """Every phase comes equally often, in random order; half of the victims are single ranks, or all with ``alone``."""
    rounds = [draw.permutation(list(phases)) for _ in range(-(-number // len(phases)))]
    moments = []
    for phase in map(str, np.concatenate(rounds)[:number] if rounds else ()):
        visit = 1 if phase in _ONCE else int(draw.integers(1, _VISITS + 1))
        victim = int(draw.integers(world_size)) if alone or draw.random() < 1 / 2 else None
        moments.append(Moment(phase, visit, float(draw.random()), victim))
    return moments


def _lane(
    bench: Bench,
    expected: EndState,
    typical: dict[str, float],
    moments: Sequence[Moment],
    blow: Blow,
    at: Path,
) -> list[str]:
    problems: list[str] = []
    struck: Counter[str] = Counter()
    finished = 0
    for number, moment in enumerate(moments):
        wanted = moment
        while True:
            ended, hit = _strike(bench, wanted, typical, blow, at)
            if hit:
                break
            problems += _finished(bench, expected, ended, at)
            finished += 1
            wanted = wanted._replace(visit=1)  # a whole run has every phase once
        struck[moment.phase] += 1
        after = _stopped(bench, expected, ended, at) if blow.requeue else _killed(bench, blow, ended, moment)
        problems += [f"{_named(number, moment)}: {problem}" for problem in after]
    problems += bench.finish(at, expected)
    where = ", ".join(f"{phase} {count}" for phase, count in struck.items())
    bench.note(f"{sum(struck.values())} signals in {finished + 1} runs: {where}")
    return problems


def _finished(bench: Bench, expected: EndState, ended: Ended, at: Path) -> list[str]:
    """The run came to its end before the moment: compare it and begin anew."""
    problems = bench.compared(at, expected) if not any(ended.codes) else [f"it could not be taken up: {told(ended)}"]
    shutil.rmtree(at / "run")
    return problems


def _strike(bench: Bench, moment: Moment, typical: dict[str, float], blow: Blow, at: Path) -> tuple[Ended, bool]:
    """Start the run and strike; also whether the moment came before the run ended."""
    phases, place, rank = Phases(bench.world_size), PHASES.index(moment.phase), moment.victim or 0
    with bench.start(at, prepare=phases.prepare) as ranks:
        hit = _wait(ranks, phases, at / "run", lambda: phases.entered[rank, place] >= moment.visit)
        if hit:
            time.sleep(moment.delay * typical[moment.phase])
            ranks.kill(moment.victim, blow.signal)
        return ranks.end(blow.patience if hit else LIMIT), hit


def _wait(ranks: Ranks, phases: Phases, run_dir: Path, has_come: Callable[[], bool]) -> bool:
    """Look at a run until something has come (True) or it has ended."""
    looked = time.monotonic()
    while not has_come():
        if not ranks.alive() or time.monotonic() > ranks.started + LIMIT:
            return False
        time.sleep(_LOOK_EVERY)
        phases.look(run_dir, -looked + (looked := time.monotonic()))
    return True


def _killed(bench: Bench, blow: Blow, ended: Ended, moment: Moment) -> list[str]:
    if not ended.in_time:
        bench.note(f"ranks that were left alone in {moment.phase} lived on for {blow.patience:.0f} s and were killed")
    return []


def _stopped(bench: Bench, expected: EndState, ended: Ended, at: Path) -> list[str]:
    """The run is to have ended well, and at once, having saved all that it asks to go on from; or to be done."""
    if not ended.in_time:
        return ["the ranks went on after the signal, and were killed"]
    if any(ended.codes):
        return [f"it did not end well: {told(ended)}"]
    asked = requeue_file(at / "run")
    if not asked.exists():
        return [f"it left no {asked.name}: {problem}" for problem in bench.compared(at, expected)]
    step, newest = json.loads(asked.read_text())["step"], max((at / "run" / "checkpoints").glob("step_*"), default=None)
    saved = step == 0 or (newest is not None and newest.name == f"step_{step:08d}")
    return [] if saved else [f"it asks to go on from step {step}, and its newest checkpoint is {newest}"]


def _named(number: int, moment: Moment) -> str:
    whom = "all ranks" if moment.victim is None else f"rank {moment.victim}"
    return f"signal {number} ({whom}, visit {moment.visit} of {moment.phase})"
