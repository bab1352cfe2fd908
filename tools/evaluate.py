"""Score weights by alignment: ``python tools/evaluate.py weights=outputs/… json=scores.json``."""

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.table import Table

from pixart.aside import refuse_no_file, refuse_unwritable, write_atomically
from pixart.config import EvaluateConfig, parse
from pixart.door import door


def evaluate(values: dict[str, Any]) -> None:
    """Draw held-out prompts (or labels) with each of the weights, score the pictures, print and write the scores."""
    asked = parse(values, EvaluateConfig)
    from pixart.build.scoring import score_alignment
    from pixart.formats import read

    for weights in (
        *asked.named.values(),
        *(asked.autoguidance or {}).values(),
    ):  # all of them, before the first is drawn with
        read(weights)
    if asked.summary is not None:
        refuse_no_file(Path(asked.summary), key="json")
    if asked.images is not None:
        refuse_unwritable(Path(asked.images), key="images", inside=True)
    scores: dict[str, Any] = {}
    for name in asked.named:
        images = None if asked.images is None else Path(asked.images) / f"{name}.png"
        scores[name] = score_alignment(name, asked, images)
    show(scores)
    if asked.summary is not None:
        minutes = {} if asked.started is None else {"minutes": round((time.time() - asked.started) / 60, 2)}
        write_atomically(Path(asked.summary), json.dumps({"alignment": scores, **minutes}, indent=2) + "\n")


def show(scores: dict[str, Any]) -> None:
    """A table with a row for each of the weights."""
    rows = list(dict.fromkeys(key for score in scores.values() for key in score if key != "interval"))
    table = Table("share wholly right", *scores)
    for row in rows:
        table.add_row(row, *(f"{score[row]:.3f}" if row in score else "" for score in scores.values()))
    table.add_row("95 % interval", *("{:.3f} - {:.3f}".format(*score["interval"]) for score in scores.values()))
    Console().print(table)


main = door("evaluate", evaluate)

if __name__ == "__main__":
    main()
