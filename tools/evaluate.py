"""Score weights by alignment: ``python tools/evaluate.py weights=outputs/… json=scores.json``."""

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pixart.aside import refuse_no_file, refuse_unwritable, write_atomically
from pixart.config import EvaluateConfig, parse
from pixart.door import door

NARROWEST = 100  # columns that its rows need: a log has 80 and would break each number


def evaluate(values: dict[str, Any]) -> None:
    """Draw held-out prompts (or labels) with each of the weights, score the pictures, print and write the scores."""
    asked = parse(values, EvaluateConfig)
    from pixart.bar import bar
    from pixart.build.scoring import score_alignment
    from pixart.build.worse import read_told, read_worse

    for name, weights in asked.named.items():  # all of them, before the first is drawn with
        found = read_told(weights)
        if asked.autoguidance is not None and name in asked.autoguidance:
            read_worse(asked.autoguidance[name], weights, found)
    if asked.summary is not None:
        refuse_no_file(Path(asked.summary), key="json")
    if asked.images is not None:
        refuse_unwritable(Path(asked.images), key="images", inside=True)
    scores: dict[str, Any] = {}
    for name in asked.named:
        images = None if asked.images is None else Path(asked.images) / f"{name}.png"
        with bar(f"drawing with {name}") as progress:
            scores[name] = score_alignment(name, asked, images, progress=progress)
    show(scores)
    if asked.summary is not None:
        minutes = {} if asked.started is None else {"minutes": round((time.time() - asked.started) / 60, 2)}
        write_atomically(Path(asked.summary), json.dumps({"alignment": scores, **minutes}, indent=2) + "\n")


def show(scores: dict[str, Any]) -> None:
    """A table with a row for each of the weights."""
    columns = list(dict.fromkeys(key for score in scores.values() for key in score if key != "interval"))
    table = Table("share right", *columns, "95 % interval", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name, score in scores.items():
        values = [f"{score[column]:.3f}" if column in score else "" for column in columns]
        table.add_row(name, *values, "{:.3f} to {:.3f}".format(*score["interval"]))
    Console(width=max(NARROWEST, Console().width)).print(table)


main = door("evaluate", evaluate)

if __name__ == "__main__":
    main()
