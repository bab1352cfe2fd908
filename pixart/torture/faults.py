"""Trials ``writes`` and ``power``: an end at every single operation on the files of a run."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pixart.torture.bench import Bench, told
from pixart.torture.cases import Case
from pixart.torture.comparison import EndState
from pixart.torture.durable import Disk, Tree, lay_out
from pixart.torture.operations import Operation
from pixart.torture.ranks import Verdict


def writes(bench: Bench) -> Iterator[Case]:
    """Killed before each operation, and in the middle of each write; then taken up again."""
    expected, operations = bench.operations()
    for number, operation in enumerate(operations):
        verdicts: list[Verdict] = ["kill", "kill halfway"] if operation.size > 1 else ["kill"]
        for verdict in verdicts:
            name = f"{verdict} at operation {number} ({operation.told(bench.root)})"
            yield Case(name, partial(_killed, bench, expected, number, verdict))


def _killed(bench: Bench, expected: EndState, number: int, verdict: Verdict, at: Path) -> list[str]:
    left = number

    def judge(_: Operation) -> Verdict:
        nonlocal left
        left -= 1
        return verdict if left < 0 else "go on"

    bench.run(at, judge)
    return bench.finish(at, expected)


def power(bench: Bench) -> Iterator[Case]:
    """The power fails before each operation, and what was not synced is lost; then taken up again.

    Many moments leave one and the same state on the disk: each state is tried once, with the most that was promised.
    """
    states: dict[tuple[tuple[str, bytes | None], ...], tuple[str, int]] = {}
    number, disk = -1, Disk(bench.empty())

    def judge(operation: Operation) -> Verdict:
        nonlocal number
        number += 1
        for names_survive in (False, True):
            lost = "bytes" if names_survive else "bytes and names"
            name = f"power cut at operation {number} ({operation.told(bench.root)}), unsynced {lost} lost"
            state = tuple(disk.cut(names_survive=names_survive).items())
            first, promised = states.get(state, (name, 0))
            states[state] = first, max(promised, _latest(bench.root))
        if operation.kind == "sync":
            disk.sync(operation.path)
        return "go on"

    expected = bench.untouched(judge)
    disk.close()
    for state, (name, promised) in states.items():
        yield Case(name, partial(_cut, bench, expected, dict(state), promised))


def _cut(bench: Bench, expected: EndState, tree: Tree, promised: int, at: Path) -> list[str]:
    lay_out(tree, at / "run")
    ended = bench.run(at)
    if any(ended.codes):
        return [f"it could not be taken up: {told(ended)}"]
    resumed = max((int(step) for step in re.findall(r"resumed at step (\d+)", ended.said[0])), default=0)
    lost = [f"step {promised} was saved, and it was taken up at step {resumed}"] if resumed < promised else []
    return lost + bench.compared(at, expected)


def _latest(run: Path) -> int:
    """The step that ``latest`` points at: from then on the run counts on it."""
    pointer = run / "checkpoints" / "latest"
    text = pointer.read_text() if pointer.exists() else ""
    return int(text.removeprefix("step_") or 0)
