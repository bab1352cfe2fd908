"""Two forked ranks that go through one job after another, as a sweep under a launcher does.

``python meetings.py FOLDER`` leaves FOLDER/rank_<r>.json: for each job, in its order, what it said, what it raised, and
what was left of it when its processes had parted.
"""

import json
import os
import signal
import sys
import threading
import time
import traceback
import weakref
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist
from accelerate.state import PartialState
from miniature import SMALL, Silent, composed
from ranks import free_port

from pixart.build import training
from pixart.config import Config, parse
from pixart.models.dit import PixArt
from pixart.training.processes import launch
from pixart.training.processes.launch import launched

JOBS: dict[str, list[str]] = {
    "first": ["+stage=1", "tracker=tensorboard", "deterministic=true", "tf32=true"],
    "failed": ["+stage=1", "seed=1"],
    "one_rank_failed": ["+stage=1", "seed=2"],
    "sharded": ["+stage=2", "sharding=full_shard", "preflight=true", "ema.others=[0.9]"],
    "sharded_again": ["+stage=2", "sharding=full_shard", "seed=3"],
    "only": ["+stage=2", "preflight=only"],
    "unlike": ["+stage=2", "preflight=true"],
}


def run(name: str, folder: Path, rank: int) -> dict[str, Any]:
    """One job, and what it leaves."""
    overrides = [*SMALL, "steps=2", "sample_every=0", "validate_every=0", *JOBS[name], f"run_dir={folder / name}"]
    overrides += [f"run_dir={folder / name}_{rank}"] if name == "sharded" and rank == 1 else []  # rank 0 decides
    overrides += ["optimizer.lr=0.5"] if name == "unlike" and rank == 1 else []
    display, models, made, fit = Silent(), list[weakref.ref[PixArt]](), training.model, training.fit

    def modelled(config: Config) -> PixArt:
        model = made(config)
        models.append(weakref.ref(model))
        return model

    def lost(*_: object) -> None:
        if name == "failed" or rank == 1:
            raise ValueError(f"rank {rank} was lost")
        fit(*_)

    training.model, training.fit, raised = modelled, lost if "failed" in name else fit, None
    try:
        training.run_training(parse(composed(*overrides), Config), lambda _: display)
    except (ValueError, RuntimeError) as error:
        raised = f"{type(error).__name__}: {error}"
    training.model, training.fit = made, fit
    return {"said": display.said, "raised": raised, "models": sum(m() is not None for m in models), **left(folder)}


def left(folder: Path) -> dict[str, Any]:
    """What a job may leave behind in a process."""
    opened = [
        os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if Path(f"/proc/self/fd/{fd}").exists()
    ]
    return {
        "files": [file for file in opened if file.startswith(str(folder)) and not file.endswith(".npy")],
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "group": dist.is_initialized() or bool(PartialState._shared_state),
        "numerics": [torch.are_deterministic_algorithms_enabled(), torch.backends.cuda.matmul.allow_tf32],
        "cublas": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "handlers": [str(signal.getsignal(which)) for which in (signal.SIGTERM, signal.SIGUSR1)],
    }


def miss_one_that_is_late(folder: Path, rank: int) -> dict[str, Any]:
    """Rank 1 comes after rank 0 has gone; then both are in time for the next job."""
    told, launch.PATIENCE = [], timedelta(seconds=0.5)
    for late in (1.5 * rank, 0.0):
        time.sleep(late)
        try:
            with launched(precision="fp32", tf32=False, deterministic=False, tracker="none", run_dir=folder) as met:
                told.append(f"{met.num_processes} met")
        except ValueError as error:
            told.append(str(error))
            time.sleep(2.0 - late)  # rank 0 waits for the late one's patience to end as well
    return {"told": told}


def work(folder: Path, rank: int, port: int) -> None:
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in values.items()} | {"MASTER_ADDR": "127.0.0.1"})
    told: dict[str, Any] = {"before": left(folder)}
    for name in JOBS:
        told[name] = run(name, folder, rank)
    told["late"] = miss_one_that_is_late(folder, rank)
    (folder / f"rank_{rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    where, meeting_place = Path(sys.argv[1]).resolve(), free_port()
    children = []
    for number in range(2):
        child = os.fork()
        if not child:
            code = 1
            try:
                work(where, number, meeting_place)
                code = 0
            except BaseException:  # noqa: BLE001  the parent reads the code, a person the traceback
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
