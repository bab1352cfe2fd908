"""Hold the curves of runs side by side: ``python tools/compare.py 'runs={a: outputs/a, b: outputs/b}' out=docs/ab``."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pixart.config import Section, parse
from pixart.door import door
from pixart.metrics.curves import as_markdown, as_svg, read_curve


class CompareConfig(Section):
    """The keys of ``configs/compare.yaml``."""

    runs: dict[str, str]
    key: str
    out: str


def run(values: dict[str, Any]) -> None:
    """Read the runs, write table and picture, print the table."""
    asked = parse(values, CompareConfig)
    if not asked.runs:
        raise ValueError("runs is empty: give {name: run directory, …}")
    curves = {name: read_curve(Path(run_dir), asked.key) for name, run_dir in asked.runs.items()}
    table = as_markdown(curves, key=asked.key, against=next(iter(curves)))
    out = Path(asked.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".md").write_text(table, encoding="utf-8")
    out.with_suffix(".svg").write_text(as_svg(curves, key=asked.key), encoding="utf-8")
    print(table)


if __name__ == "__main__":
    door("compare", run)()
