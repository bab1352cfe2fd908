"""A small ``train.py``: its work is to write down where it was called, to go wrong for seeds 13 and 14, to stop at 15.

It takes the arguments of ``train.py`` and writes $SWEPT/<seed>_<rank>.json.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from pixart.door import door


def work(values: dict[str, Any]) -> None:
    seed = values["seed"]
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    told = {"stage": values["stage"], "lr": values["optimizer"]["lr"], "process": os.getpid(), "cwd": os.getcwd()}
    file = Path(os.environ["SWEPT"]) / f"{seed}_{os.environ.get('RANK', '0')}.json"
    file.write_text(json.dumps(told | {name: os.environ.get(name) for name in names}))
    if seed == 13:
        raise ValueError("13 brings no luck: take another seed")
    if seed == 14:
        raise KeyError("a fault of ours")
    if seed == 15:
        sys.exit()  # as a run does that a signal has stopped


if __name__ == "__main__":
    door("train", work)()
