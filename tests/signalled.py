"""Runs a list of training runs on two forked processes and sends signals to them: imports are paid once.

``python signalled.py`` reads from standard input a JSON list of {"overrides", "at", "signals": [[rank, name], …]}.
Each signal goes to a rank and all its loader's workers, as Slurm sends it: together, as soon as the log passes step
``at``, or for null as soon as both ranks hear signals, long before the first step. It writes a JSON list of the seconds
from then until all processes had ended; one that ends with another code than 0 is an error.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import MappingProxyType

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from miniature import composed
from ranks import fork_rank, free_port, logged_step

from pixart.config import Config, parse


def hears(child: int) -> bool:
    """Whether a process has a handler for SIGTERM."""
    status = Path(f"/proc/{child}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def run(overrides: list[str], at: int | None, signals: list[tuple[int, str]]) -> float:
    config, port = parse(composed(*overrides), Config), free_port()
    children = [fork_rank(config, rank, 2, port, MappingProxyType({}), None) for rank in range(2)]
    for child in children:
        os.setpgid(child, child)
    while signals and (not all(map(hears, children)) if at is None else logged_step(config) < at):
        time.sleep(0.005)
    asked = time.monotonic()
    for rank, name in signals:
        os.killpg(children[rank], signal.Signals[name])
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if codes != [0, 0]:
        sys.exit(f"{overrides}: exit codes {codes}")
    return time.monotonic() - asked


if __name__ == "__main__":
    json.dump([run(**wanted) for wanted in json.load(sys.stdin)], sys.stdout)
