"""The runs of ``ranks.py``, and after them a gradient scaler over shards.

``python shards.py <folder>`` reads what ``ranks.py`` reads. Then two forked processes train a module of uneven shards
for three updates of two micro-batches, the second update with an infinite gradient in the shard of one rank alone, and
write what they saw to <folder>/<rank>.json.
"""

import gc
import json
import os
import sys
import traceback
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import ranks
import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from pixart.training.processes.sharding import gathered, local, unsynced


def scaled_updates(rank: int) -> list[dict[str, object]]:
    accelerator = Accelerator(cpu=True)
    model = nn.Linear(5, 3)  # of 3 rows one rank holds 2
    with torch.no_grad():
        model.weight.fill_(1.0)
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    seen: list[dict[str, object]] = []
    for step in range(3):
        travelled = []
        for meeting in (unsynced(accelerator, model), nullcontext()):
            with meeting:
                scaler.scale(model(torch.ones(1, 5)).sum()).backward()
            travelled.append(model.weight.grad is not None)
        assert model.weight.grad is not None
        if step == 1 and rank == 1:
            local(model.weight.grad)[0, 0] = float("inf")
        before = gathered(model.weight).clone()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        moved = not torch.equal(gathered(model.weight), before)
        seen.append({"moved": moved, "scale": scaler.get_scale(), "rows": len(local(model.weight))})
        seen[-1]["travelled"] = travelled
    return seen


def scaled(port: int, rank: int, out: Path) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
        (out / f"{rank}.json").write_text(json.dumps(scaled_updates(rank)))
        code = 0
    except Exception:  # noqa: BLE001  the parent reads the code, a person the traceback
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    gc.freeze()
    for wanted in json.load(sys.stdin):
        ranks.run(**wanted)
    port = ranks.free_port()
    children = [scaled(port, rank, Path(sys.argv[1])) for rank in range(2)]
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
