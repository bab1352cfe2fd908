"""Runs a list of training runs, each on one or several forked processes: imports are paid once.

``python ranks.py`` reads from standard input a JSON list of {"world_size", "overrides", "kill_at": step or null}. A run
with ``kill_at`` is ended with SIGKILL, all ranks at once, as soon as its log passes that step.
"""

import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from miniature import Silent, composed

from pixart.build.training import run_training
from pixart.config import Config, parse


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fork_rank(config: Config, rank: int, world_size: int, port: int) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        if world_size > 1:
            names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
            values = (rank, rank, world_size, world_size, "127.0.0.1", port)
            os.environ.update({name: str(value) for name, value in zip(names, values, strict=True)})
        run_training(config, lambda _: Silent())
        code = 0
    except Exception:  # noqa: BLE001  the parent reads the code, a person the traceback
        traceback.print_exc()
    finally:
        os._exit(code)


def logged_step(config: Config) -> int:
    file = Path(config.run_dir or "") / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


def run(world_size: int, overrides: list[str], kill_at: int | None) -> None:
    config, port = parse(composed(*overrides), Config), free_port()
    children = [fork_rank(config, rank, world_size, port) for rank in range(world_size)]
    if kill_at is not None:
        while logged_step(config) < kill_at:
            time.sleep(0.01)
        for child in children:
            os.kill(child, signal.SIGKILL)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    expected = [0] * world_size if kill_at is None else [-signal.SIGKILL] * world_size
    if codes != expected:
        sys.exit(f"{overrides}: exit codes {codes}, expected {expected}")


if __name__ == "__main__":
    for wanted in json.load(sys.stdin):
        run(wanted["world_size"], wanted["overrides"], wanted["kill_at"])
