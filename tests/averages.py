"""Averages over two ranks with shards against those of one process, bit for bit.

``python averages.py FILE``: a new one, where the two meet.
"""

import os
import sys
import traceback
from copy import deepcopy
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from pixart.batch import Conditioning
from pixart.models.dit import PixArt
from pixart.training.ema import Ema
from pixart.training.processes.sharding import gathered

RATES = {"decay": 0.9, "warmup": True, "others": [0.5], "power": [0.05, 0.1]}


def network() -> PixArt:
    """11 label rows and 2 of the last table: shards of unequal size, and none."""
    torch.manual_seed(0)
    return PixArt(
        input_size=4, patch_size=2, in_channels=3, out_channels=3, dim=48, depth=1, num_heads=2, mlp_ratio=1.0,
        text_dim=None, num_classes=10, size_conditioning=False, adaln="single", interpolation_scale=1.0,
        attention="sdpa", fp32_attention=False, checkpointing="none",
    )  # fmt: skip


def sharded(model: nn.Module) -> nn.Module:
    model, mesh = deepcopy(model), init_device_mesh("cpu", (2,))
    for block in model.get_submodule("blocks").children():
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


@torch.no_grad()
def step(whole: nn.Module, parts: nn.Module, seed: int) -> None:
    """The same new weights in both."""
    generator = torch.Generator().manual_seed(seed)
    for one, part in zip(whole.parameters(), parts.parameters(), strict=True):
        assert isinstance(part, DTensor)
        one.copy_(torch.randn(one.shape, generator=generator))
        part.copy_(distribute_tensor(one, part.device_mesh, part.placements))


def same(whole: Ema, parts: Ema) -> None:
    """Every average, gathered, is that of one process."""
    for name in whole.profiles:
        held = parts.tensors(name)
        for tensor, expected in whole.tensors(name).items():
            assert torch.equal(gathered(held[tensor]), expected), f"{name} {tensor}"


def check(rank: int) -> None:
    whole = network()
    parts = sharded(whole)
    alone, together = Ema(whole, **RATES), Ema(parts, **RATES)
    for seed in range(5):
        step(whole, parts, seed)
        alone.update(whole)
        together.update(parts)
    same(alone, together)
    held = sum(tensor.numel() for tensor in together.averages["decay_0.9"].values())
    assert held < 0.6 * sum(p.numel() for p in whole.parameters())

    again = Ema(parts, **RATES)  # which holds the weights themselves
    state = together.state_dict()
    assert all(isinstance(one, DTensor) for average in state["averages"].values() for one in average.values())
    again.load_state_dict(state)
    assert again.updates == 5
    step(whole, parts, 5)
    for ema, model in ((alone, whole), (again, parts)):
        ema.update(model)
    same(alone, again)
    lend(alone, again, whole, parts, rank)


def lend(alone: Ema, together: Ema, whole: nn.Module, parts: nn.Module, rank: int) -> None:
    """The borrowed model is plain: one rank may call it twice and the other never."""
    before = [p.to_local().clone() for p in parts.parameters() if isinstance(p, DTensor)]
    parts.train()
    given = (torch.ones(1, 3, 4, 4), torch.tensor([5.0]), Conditioning(label=torch.tensor([3])))
    for profile in (None, "power_0.1"):
        with alone.weights(whole, profile) as one, together.weights(parts, profile) as other, torch.no_grad():
            assert not other.training
            for _ in range(2 * rank):
                assert torch.equal(one(*given), other(*given))
    assert parts.training
    after = [p.to_local() for p in parts.parameters() if isinstance(p, DTensor)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def rank(number: int, meeting: Path) -> int:
    """The exit code of one of the two."""
    try:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=number, world_size=2)
        check(number)
        dist.destroy_process_group()
    except Exception:  # noqa: BLE001  the parent reads the code, a person the traceback
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    place = Path(sys.argv[1]).resolve()
    second = os.fork()
    if not second:
        os._exit(rank(1, place))
    first = rank(0, place)
    sys.exit(first or os.waitstatus_to_exitcode(os.waitpid(second, 0)[1]))
