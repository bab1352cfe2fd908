"""Run with torchao on the path: what float8 makes of a small model and of a small run, as JSON."""

import copy
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measuring import measured
from miniature import Silent, small
from torch import Tensor

from pixart.batch import Conditioning
from pixart.build.parts import model
from pixart.build.training import run_training
from pixart.formats.snapshot import find_snapshot, read_snapshot
from pixart.models.compiled import compile_blocks
from pixart.models.dit import PixArt
from pixart.models.float8 import use_float8

QUIET = ["validate_every=0", "sample_every=0", "data.workers=0", "checkpoint_every=3"]


def learnt(made: PixArt, *, length: int = 24) -> list[Tensor]:
    drawn = torch.Generator().manual_seed(3)
    cond = Conditioning(
        tokens=torch.randn(2, length, 64, generator=drawn), mask=torch.ones(2, length, dtype=torch.bool)
    )
    output = made(torch.randn(2, 3, 32, 32, generator=drawn), torch.tensor([10, 900]), cond)
    return [output, *torch.autograd.grad(output.square().mean(), list(made.parameters()))]


def apart(some: list[Tensor], others: list[Tensor]) -> float:
    """Of all numbers together, relative."""
    a, b = (torch.cat([x.detach().flatten() for x in each]) for each in (some, others))
    return float((a - b).norm() / b.norm())


def models(recipe: str) -> dict[str, object]:
    plain, other = (model(small(2, Path("unused"))).train() for _ in range(2))
    for made in (plain, other):
        drawn = torch.Generator().manual_seed(1)
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.05, generator=drawn)
    use_float8(other, "cpu", recipe=recipe)  # type: ignore[arg-type]
    found = learnt(other)
    names = {name for name, layer in other.named_modules() if type(layer).__name__ == "Float8Linear"}
    kept = list(other.state_dict()) == list(plain.state_dict())
    difference = [apart(found[:1], learnt(plain)[:1]), apart(found[1:], learnt(plain)[1:])]
    recomputed = []
    for way in ("blocks", "selective"):
        for block in other.blocks:
            block.checkpointing = way
        recomputed.append(apart(learnt(other), found))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = apart(learnt(copy.deepcopy(other)), found)
    compile_blocks(other, "cpu", backend="aot_eager")
    return {"layers": sorted(names), "kept": kept, "apart": difference, "recomputed": recomputed, "bf16": rounded} | {
        "compiled": apart(learnt(other), found)
    }


def sizes() -> str:
    try:
        use_float8(model(small(2, Path("unused"), "model.dim=40")), "cpu", recipe="rowwise")
    except ValueError as error:
        return str(error)
    return ""


def benchmark(folder: Path) -> dict[str, float]:
    tiny = ["device=cpu", "model.dim=48", "model.num_heads=4", "text={dim:16,mean:3,longest:6}", "copy_mib.cpu=1"]
    case = ["compilation.backend=eager", *(f"cpu.two_blocks.{key}" for key in ("resolution=32", "depth=2", "batch=2"))]
    figures = measured("train_step", folder, *tiny, *case, "float8=tensorwise")
    return {name: figure.value for name, figure in figures.items() if "float8" in name}


def runs(folder: Path) -> dict[str, object]:
    def weights(name: str, *steps: int, recipe: str = "rowwise") -> dict[str, Tensor]:
        for step in steps:
            run_training(
                small(2, folder / name, *QUIET, f"float8={recipe}", f"steps={step}"),
                lambda _: Silent(),
            )
        return read_snapshot(find_snapshot(folder / name)).tensors

    unbroken, resumed, plain = weights("whole", 6), weights("parts", 3, 6), weights("plain", 6, recipe="none")
    try:
        weights("parts", 7, recipe="none")
    except ValueError as error:
        refused = str(error)
    return {
        "resumed": all(torch.equal(resumed[name], tensor) for name, tensor in unbroken.items()),
        "plain": all(torch.equal(plain[name], tensor) for name, tensor in unbroken.items()),
        "refused": refused,
    }


if __name__ == "__main__":
    told = {recipe: models(recipe) for recipe in ("rowwise", "tensorwise")}
    sys.stdout.write(
        "\n"
        + json.dumps(
            {**told, "sizes": sizes(), "runs": runs(Path(sys.argv[1])), "benchmark": benchmark(Path(sys.argv[1]))}
        )
    )
