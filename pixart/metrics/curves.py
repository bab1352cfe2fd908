"""Curves of runs side by side: what one start saves against another, in steps, as a table and a picture."""

import json
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

Curve = dict[int, float]  # step -> value

WIDTH, HEIGHT, MARGIN = 720, 360, 50  # of the picture, in pixels
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee")


def read_curve(run_dir: Path, key: str) -> Curve:
    """``key`` of a run's metrics.jsonl over its steps; ``ValueError`` where it was never logged."""
    file = run_dir / "metrics.jsonl"
    if not file.is_file():
        raise ValueError(f"{run_dir} holds no metrics.jsonl; give the directory of a run")
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    curve = {int(line["step"]): float(line[key]) for line in lines if key in line}
    if not curve:
        raise ValueError(f"{file} has no '{key}'; choose a key that the run logged")
    return curve


def reached(curve: Curve, value: float) -> float | None:
    """The step at which ``curve`` first comes down to ``value``, between its points too; None if it never does."""
    before: tuple[int, float] | None = None
    for step, at in sorted(curve.items()):
        if at <= value:
            if before is None or before[1] == at:
                return float(step)
            share = (before[1] - value) / (before[1] - at)
            return before[0] + share * (step - before[0])
        before = (step, at)
    return None


def saving(curve: Curve, against: Curve) -> float | None:
    """Steps that ``curve`` saves on the way to the last value of the slower of the two; negative where it loses."""
    goal = max(curve[max(curve)], against[max(against)])
    mine, theirs = reached(curve, goal), reached(against, goal)
    return None if mine is None or theirs is None else theirs - mine


def as_markdown(curves: Mapping[str, Curve], *, key: str, against: str) -> str:
    """A row for each step, a column for each run, and under each what it saves against the run ``against``."""
    steps = sorted(set().union(*curves.values()))
    rows = [["step", *curves], ["--:"] * (1 + len(curves))]
    rows += [[str(step), *(_number(curve.get(step)) for curve in curves.values())] for step in steps]
    saved = [saving(curve, curves[against]) for curve in curves.values()]
    rows.append([f"steps saved against {against}", *("-" if x is None else f"{x:.0f}" for x in saved)])
    return f"`{key}`\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def as_svg(curves: Mapping[str, Curve], *, key: str) -> str:
    """The curves in one picture, steps to the right and values up."""
    last = max(max(curve) for curve in curves.values()) or 1
    values = [value for curve in curves.values() for value in curve.values()]
    low, high = min(values), max(max(values), min(values) + 1e-9)

    def place(step: int, value: float) -> str:
        x = MARGIN + (WIDTH - 2 * MARGIN) * step / last
        y = HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (value - low) / (high - low)
        return f"{x:.1f},{y:.1f}"

    drawn = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif">']
    drawn.append('<rect width="100%" height="100%" fill="white"/>')
    for number, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(place(step, value) for step, value in sorted(curve.items()))
        drawn.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        drawn.append(f'<text x="{WIDTH - 200}" y="{MARGIN + 20 * number}" fill="{colour}">{escape(name)}</text>')
    drawn.append(f'<text x="{MARGIN}" y="{MARGIN - 20}">{escape(key)}, {low:.4g} to {high:.4g}</text>')
    drawn.append(f'<text x="{MARGIN}" y="{HEIGHT - 15}">steps, 0 to {last}</text></svg>')
    return "\n".join(drawn) + "\n"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
