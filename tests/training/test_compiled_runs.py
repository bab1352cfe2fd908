"""A run with compiled blocks: resumed, it makes the steps that it would have made unbroken."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from miniature import SMALL, Silent, small
from scripts import run_script
from torch._dynamo.utils import counters

from pixart.batch import Conditioning, places_of
from pixart.build import compiling, learning
from pixart.build.compiling import has_static_shapes, rehearsed
from pixart.build.training import run_training
from pixart.formats.snapshot import find_snapshot, read_snapshot
from pixart.models.compiled import compile_blocks

TRAIN = Path(__file__).resolve().parents[2] / "train.py"
QUIET = ["validate_every=0", "sample_every=0", "data.workers=0", "log_every=3", "checkpoint_every=3"]


def weights(run_dir: Path, *steps: int, compiled: bool) -> dict[str, torch.Tensor]:
    for step in steps:
        config = small(2, run_dir, *QUIET, f"steps={step}", f"compile={str(compiled).lower()}")
        run_training(config, lambda _: Silent())
    return read_snapshot(find_snapshot(run_dir)).tensors


def test_3_and_3_compiled_steps_are_6_to_the_bit_and_those_of_eager_to_1e_4(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "compile_blocks", partial(compile_blocks, backend="aot_eager"))
    unbroken = weights(tmp_path / "unbroken", 6, compiled=True)
    torch._dynamo.reset()  # as in another process
    resumed = weights(tmp_path / "resumed", 3, 6, compiled=True)
    eager = weights(tmp_path / "eager", 6, compiled=False)
    for name, tensor in unbroken.items():
        assert torch.equal(resumed[name], tensor), name
        torch.testing.assert_close(eager[name], tensor, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_2_and_4_steps_of_two_processes_that_compile_to_machine_code_are_6_of_one_to_the_bit(
    tmp_path: Path, stage: int
) -> None:
    """Each compiles for itself, from an empty cache; stage 3 resumes with another bucket than it began with."""

    def trained(name: str, cache: str, steps: int) -> dict[str, torch.Tensor]:
        told = [f"+stage={stage}", *SMALL, *QUIET, "compile=true", f"steps={steps}", f"run_dir={tmp_path / name}"]
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / cache)}
        subprocess.run([sys.executable, TRAIN, *told], check=True, env=environment, stdout=subprocess.DEVNULL)
        return read_snapshot(find_snapshot(tmp_path / name)).tensors

    unbroken = trained("unbroken", "first", 6)
    trained("resumed", "second", 2)
    resumed = trained("resumed", "third", 6)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in unbroken.items())


@pytest.mark.parametrize(
    ("sharding", "checkpointing"), [("none", "selective"), ("full_shard", "none"), ("full_shard", "blocks")]
)
def test_2_compiled_ranks_log_the_losses_of_1_eager_process_to_1e_5(
    tmp_path: Path, sharding: str, checkpointing: str
) -> None:
    common = ["+stage=2", *SMALL, *QUIET, "snapshot_every=0", "log_every=1", "steps=3"]
    two = [
        f"sharding={sharding}",
        f"model.checkpointing={checkpointing}",
        "compile=true",
        f"run_dir={tmp_path / 'two'}",
    ]
    wanted = [(2, [*common, *two]), (1, [*common, f"run_dir={tmp_path / 'alone'}"])]
    run_script("ranks.py", wanted=[{"world_size": n, "overrides": given, "kill_at": None} for n, given in wanted])
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("two", "alone")
    ]
    assert len(losses[0]) == 3
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_rehearsal_compiles_the_1_graph_of_a_step_and_leaves_no_gradient() -> None:
    from accelerate import Accelerator

    from pixart.build.parts import model
    from pixart.training.rehearsal import rehearse

    torch._dynamo.reset()
    counters.clear()
    bare = model(small(3, Path("unused"))).train()
    compile_blocks(bare, "cpu", backend="aot_eager")
    rehearse(Accelerator(cpu=True), bare, bare, images=2, tokens=24)
    assert all(parameter.grad is None for parameter in bare.parameters())
    for images, tokens in ((4, 24), (3, 11)):
        rehearse(Accelerator(cpu=True), bare, bare, images=images, tokens=tokens)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("compiled", [False, True])
def test_that_compilation_comes_first_is_said_where_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    monkeypatch.setattr(learning, "compile_blocks", partial(compile_blocks, backend="aot_eager"))
    said: list[str] = []
    monkeypatch.setattr(Silent, "say", lambda _, line: said.append(line))
    weights(tmp_path, 1, compiled=compiled)
    assert [line.startswith("stage 2") for line in said[:1]] == [True]
    assert (
        sum(line.startswith("compile=true: the blocks are compiled before the first step") for line in said) == compiled
    )


def test_a_resume_may_not_turn_compilation_on(tmp_path: Path) -> None:
    weights(tmp_path, 1, compiled=False)
    with pytest.raises(ValueError, match=r"compile \(was False, is True\)"):
        weights(tmp_path, 2, compiled=True)


@pytest.mark.parametrize(
    ("device", "processes", "more", "expected"),
    [
        ("cpu", 1, [], (2,)),
        ("cuda", 1, [], (3, 4)),  # ten images in pieces of at most four
        ("cuda", 2, [], (2, 3)),
        ("cuda", 2, ["micro_batch=64"], (5,)),
        ("cuda", 1, ["data.buckets=[[32,32]]"], (3, 4)),
        ("cuda", 1, ["data.buckets=[[24,40]]"], (2,)),  # not the square that a rehearsal is of
        ("cuda", 1, ["data.buckets=[[32,32],[24,40]]"], (2,)),
        ("cuda", 1, ["model.attention=xformers"], (3, 4)),
    ],
)
def test_with_static_shapes_the_run_s_own_micro_batches_are_rehearsed(
    tmp_path: Path, device: str, processes: int, more: list[str], expected: tuple[int, ...]
) -> None:
    config = small(2, tmp_path, "global_batch=10", *more)
    assert rehearsed(config, torch.device(device), processes=processes) == expected


def test_where_xformers_runs_shapes_are_dynamic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(2, tmp_path, "model.attention=xformers")
    for found in ("sdpa", "xformers"):
        monkeypatch.setattr(compiling, "usable", lambda *_, found=found: found)
        assert has_static_shapes(config, torch.device("cuda")) == (found == "sdpa")


def test_micro_batches_that_cannot_be_cut_are_refused_before_anything_is_compiled(tmp_path: Path) -> None:
    config = small(2, tmp_path, "global_batch=5", "micro_batch=1")
    with pytest.raises(ValueError, match="global_batch=5 cannot be shared by 4 processes"):
        rehearsed(config, torch.device("cuda"), processes=4)


def test_after_a_rehearsal_at_static_shapes_steps_with_other_captions_make_no_graph(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from accelerate import Accelerator

    from pixart.build.parts import model
    from pixart.training.rehearsal import rehearse

    monkeypatch.setattr("pixart.models.dit.located", lambda tokens, mask, places: (tokens, mask, places))  # as on a GPU
    torch._dynamo.reset()
    counters.clear()
    bare = model(small(2, Path("unused"))).train()
    compile_blocks(bare, "cuda", static=True, backend="aot_eager")
    for images in (3, 4):
        rehearse(Accelerator(cpu=True), bare, bare, images=images, tokens=24)
    assert counters["stats"]["unique_graphs"] == 2
    side, channels = bare.config["input_size"], bare.config["in_channels"]
    for images, longest in ((4, 1), (3, 24), (4, 9)):
        mask = torch.arange(24) < torch.randint(1, longest + 1, (images, 1))
        cond = Conditioning(tokens=torch.randn(images, 24, 64), mask=mask, places=places_of(mask))
        bare(torch.randn(images, channels, side, side), torch.zeros(images), cond).sum().backward()
    assert counters["stats"]["unique_graphs"] == 2
