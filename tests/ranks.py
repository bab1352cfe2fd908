"""Runs a list of training runs, each on one or several forked processes: imports are paid once.

``python ranks.py`` reads from standard input a JSON list of {"world_size", "overrides", "kill_at": step or null}. A run
with ``kill_at`` is ended with SIGKILL, all ranks at once, as soon as its log passes that step. What each rank read is
in <run_dir>/keys_<rank>.jsonl: one line a micro-batch, with the global batch, the first position in it and the keys;
what it said is in said_<rank>.json. "environ" may hold variables that its processes find, and "poisoned" the name of
a module whose weight has a NaN on the last rank.
"""

import gc
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from diffusers import DPMSolverMultistepScheduler  # noqa: F401  read when needed, which is once for each fork
from miniature import Silent, composed
from transformers import T5Config, T5EncoderModel  # noqa: F401  the same

from pixart.batch import Batch
from pixart.build import learning, training
from pixart.config import Config, parse
from pixart.data.loading import Step
from pixart.models.dit import PixArt


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def told(read: Callable[..., Iterator[Step]], file: Path) -> Callable[..., Iterator[Step]]:
    """``read_batches`` that writes down the keys of what is read from it."""

    def noted(step: Step) -> Iterator[Batch]:
        for cut, batch in zip(step.cuts, step.batches, strict=True):
            with file.open("a") as lines:
                lines.write(json.dumps({"k": step.k, "start": cut.start, "keys": batch.keys}) + "\n")
            yield batch

    def reading(*arguments: object) -> Iterator[Step]:
        for step in read(*arguments):
            yield step._replace(batches=noted(step))

    return reading


def poison(name: str) -> None:
    made = training.model

    def poisoned(config: Config) -> PixArt:
        model = made(config)
        with torch.no_grad():
            model.get_submodule(name).get_parameter("weight").view(-1)[-1] = float("nan")
        return model

    training.model = poisoned


def fork_rank(
    config: Config, rank: int, world_size: int, port: int, environ: Mapping[str, str], poisoned: str | None
) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        if world_size > 1:
            names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
            values = (rank, rank, world_size, world_size, "127.0.0.1", port)
            os.environ.update({name: str(value) for name, value in zip(names, values, strict=True)})
        os.environ.update(environ)
        # Of a compiled run the graphs are of interest here; kernels take a compiler minutes.
        learning.compile_blocks = partial(learning.compile_blocks, backend="aot_eager")
        if poisoned is not None and rank == world_size - 1:
            poison(poisoned)
        learning.read_batches = told(learning.read_batches, Path(config.run_dir or "") / f"keys_{rank}.jsonl")
        display = Silent()
        training.run_training(config, lambda _: display)
        (Path(config.run_dir or "") / f"said_{rank}.json").write_text(json.dumps(display.said))
        code = 0
    except Exception:  # noqa: BLE001  the parent reads the code, a person the traceback
        traceback.print_exc()
    finally:
        os._exit(code)


def logged_step(config: Config) -> int:
    file = Path(config.run_dir or "") / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


def run(
    world_size: int,
    overrides: list[str],
    kill_at: int | None,
    environ: Mapping[str, str] = MappingProxyType({}),
    poisoned: str | None = None,
) -> None:
    config, port = parse(composed(*overrides), Config), free_port()
    children = [fork_rank(config, rank, world_size, port, environ, poisoned) for rank in range(world_size)]
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
    gc.freeze()  # or each child's collections would walk all that was imported
    for wanted in json.load(sys.stdin):
        run(**wanted)
