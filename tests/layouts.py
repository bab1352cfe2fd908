"""Checkpoints written by one process, by two that hold copies and by two that hold shards, read by each of them.

``python layouts.py FOLDER`` writes FOLDER/<layout>/checkpoints and checks every pair bit for bit; then two ranks meet a
disk that takes no more of one's file, and a damaged file of the other's.
"""

import json
import os
import resource
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist
from ranks import free_port
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from pixart.training.checkpoints.checkpoint import Checkpoints
from pixart.training.checkpoints.pieces import Division, PiecesReader
from pixart.training.checkpoints.resumption import read_checkpoint
from pixart.training.checkpoints.state import joined, load_optimizer_state, optimizer_state, split
from pixart.training.processes.ranks import Ranks

LAYOUTS = {"alone": 1, "copies": 2, "shards": 2}  # -> world size
ODD = {
    "bf16": torch.arange(14, dtype=torch.bfloat16).reshape(7, 2) / 3,  # 7 rows over two ranks
    "one.row": torch.tensor([[3.5, -0.0, float("nan"), float("inf")]]),  # nothing for the second rank
    "int64": torch.tensor([2**62 + 1, -5, 7]),
    "fp64": torch.tensor([1 / 3, 2.0**-1060], dtype=torch.float64),
    "a/b~c.d": torch.arange(6.0).reshape(2, 3).t(),  # a strange name, not contiguous
    "bool": torch.tensor([True, False, True]),
}
WHOLE = {"0-d": torch.tensor(0.1), "empty": torch.zeros(0, 3), "counter": torch.tensor(3)}  # are never sharded


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Sequential(*(nn.Linear(5, 5) for _ in range(20))), nn.Linear(5, 1))


def optimizer_of(model: nn.Module, *, backwards: bool) -> torch.optim.AdamW:
    """Numbered in another order, for names are what counts."""
    parameters = list(model.parameters())
    return torch.optim.AdamW(parameters[::-1] if backwards else parameters, lr=1e-2, fused=True)


def spread_of(layout: str, model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Shard ``model`` if the layout says so; returns what brings any other tensor into the layout."""
    if layout != "shards":
        return Tensor.clone
    mesh = init_device_mesh("cpu", (2,))
    fully_shard(model, mesh=mesh)
    return lambda tensor: distribute_tensor(tensor, mesh, [Shard(0)])


def content(layout: str, *, empty: bool) -> tuple[dict[str, Any], nn.Module, torch.optim.AdamW]:
    """Everything that is saved, the same numbers in each layout; ``empty`` is a place to read it into."""
    model = network()
    reference = network()
    reference_optimizer = optimizer_of(reference, backwards=False)
    for _ in range(3):
        reference_optimizer.zero_grad()
        reference(torch.arange(6.0).reshape(2, 3)).square().sum().backward()
        reference_optimizer.step()
    spread = spread_of(layout, model)
    optimizer = optimizer_of(model, backwards=empty)
    if not empty:
        for mine, whole in zip(model.parameters(), reference.parameters(), strict=True):
            mine.detach().copy_(spread(whole.detach()))
        state = optimizer_state(reference, reference_optimizer)
        for one in state["state"].values():
            one.update({key: spread(value) for key, value in one.items() if value.ndim})
        load_optimizer_state(model, optimizer, state)
    odd = {name: spread(tensor) for name, tensor in ODD.items()} | {name: t.clone() for name, t in WHOLE.items()}
    tied = spread(torch.arange(4.0))
    if empty:
        for tensor in (*odd.values(), tied):
            tensor.zero_()
        for parameter in model.parameters():
            parameter.detach().zero_()
    return {"model": model.state_dict(), "odd": odd, "tied": {"one": tied, "two": tied}}, model, optimizer


def checkpoints(folder: Path, said: list[str]) -> Checkpoints:
    return Checkpoints(folder / "checkpoints", Ranks(), keep=2, keep_every=0, logs=(), warn=said.append)


def write(folder: Path, layout: str) -> None:
    state, model, optimizer = content(layout, empty=False)
    made = checkpoints(folder / layout, [])
    tensors, values = split({**state, "optimizer": optimizer_state(model, optimizer), "ratio": 0.1})
    made.write(3, Division(made.ranks).mine(tensors), json.dumps(values))


def check(folder: Path, layout: str) -> None:
    """Whatever wrote it, this layout reads the same bits."""
    for written in LAYOUTS:
        state, model, optimizer = content(layout, empty=True)
        said: list[str] = []
        found = checkpoints(folder / written, said).newest()
        assert found is not None
        assert not said
        reader = PiecesReader(found)
        targets, _ = split(state)
        parameters = dict(model.named_parameters())
        for name, told in reader.stored().items():
            if name.startswith("optimizer/") and name not in targets:
                like = parameters[name.split("/")[2]].detach()
                whole = tuple(like.shape) != told.shape
                targets[name] = torch.zeros(told.shape) if whole else torch.zeros_like(like)
        reader.read_into(targets)
        values = json.loads((found / "state.json").read_text())
        assert values["ratio"] == 0.1
        load_optimizer_state(model, optimizer, joined(targets, values)["optimizer"])
        got, _ = split({**state, "optimizer": optimizer_state(model, optimizer)})
        compare(got, f"{written} -> {layout}")


def compare(got: dict[str, Tensor], what: str) -> None:
    expected_state, reference, reference_optimizer = content("alone", empty=False)
    expected, _ = split({**expected_state, "optimizer": optimizer_state(reference, reference_optimizer)})
    assert got.keys() == expected.keys(), what
    assert len(got) > 150
    for name, tensor in got.items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        assert whole.dtype == expected[name].dtype, (what, name)
        assert whole.shape == expected[name].shape, (what, name)
        pair = [one.contiguous().view(-1).view(torch.uint8) for one in (whole, expected[name])]
        assert torch.equal(*pair), (what, name)


def meet_a_full_disk(folder: Path, _layout: str) -> None:
    """Rank 1 may write no more than 100 bytes of its file: both say the same, and nothing is left."""
    said: list[str] = []
    made = checkpoints(folder / "full", said)
    division = Division(made.ranks)
    tensors = {f"model/{i}": torch.arange(50.0) + i for i in range(4)}
    made.write(1, division.mine(tensors), "{}")
    if made.ranks.rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    try:
        made.write(2, division.mine(tensors), "{}")
        sentence = "none"
    except ValueError as error:
        sentence = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert "step_00000002 cannot be written (File too large)" in sentence
    assert sentence.endswith("the last good one is step_00000001")
    assert set(made.ranks.gathered(sentence)) == {sentence}
    if made.ranks.is_first:
        assert sorted(path.name for path in made.folder.iterdir()) == ["latest", "step_00000001"]
    made.write(2, division.mine(tensors), "{}")
    assert made.newest() == made.folder / "step_00000002"


def share_a_verdict(folder: Path, _layout: str) -> None:
    """Only one rank looks into the damaged file; all pass the checkpoint over."""
    said: list[str] = []
    made = checkpoints(folder / "full", said)
    damaged = made.folder / "step_00000002" / "rank_00001.safetensors"
    if made.ranks.is_first:
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    made.ranks.gathered(None)
    assert made.newest() == made.folder / "step_00000001"
    assert len(said) == 1
    assert "step_00000002 is passed over: rank_00001.safetensors does not have the checksum" in said[0]
    # What all ranks hold alike is written once: four tensors of 200 bytes, and a header for each of two files.
    files = [made.folder / "step_00000001" / f"rank_{rank:05d}.safetensors" for rank in (0, 1)]
    assert sum(file.stat().st_size for file in files) < 4 * 200 + 2 * 600
    assert torch.equal(read_checkpoint(made.folder / "step_00000001")["model"]["3"], torch.arange(50.0) + 3)


def on_ranks(world_size: int, work: Callable[[Path, str], None], folder: Path, layout: str) -> None:
    port, children = free_port(), []
    for rank in range(world_size):
        child = os.fork()
        if child:
            children.append(child)
            continue
        code = 1
        try:
            warnings.simplefilter("error")  # nothing that torch says of itself may reach a user
            if world_size > 1:
                address = f"tcp://127.0.0.1:{port}"
                dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world_size)
            work(folder, layout)
            code = 0
        except Exception:  # noqa: BLE001  the parent reads the code, a person the traceback
            traceback.print_exc()
        finally:
            os._exit(code)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(codes):
        sys.exit(f"{work.__name__} {layout}: exit codes {codes}")


if __name__ == "__main__":
    for step in (write, check):
        for name, size in LAYOUTS.items():
            on_ranks(size, step, Path(sys.argv[1]), name)
    on_ranks(2, meet_a_full_disk, Path(sys.argv[1]), "copies")
    on_ranks(2, share_a_verdict, Path(sys.argv[1]), "copies")
