"""Sharded or copied, on one process, two or four: the same learning rates, losses, gradients, averages and pictures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scripts import run_script

HERE = Path(__file__).parent
STAGES = (1, 2, 3)
SMALL = (
    *(
        "scale=tiny",
        "optimizer.lr_decay=none",
        "model.dim=48",
        "model.depth=2",
        "model.num_heads=2",
        "data.num_samples=64",
        "data.workers=0",
    ),
    *("global_batch=10", "micro_batch=3"),  # cut into 2, 3, 2 and 3
    *("data.validation_samples=7", "sampling.num_inference_steps=2", "optimizer.warmup_steps=4", "steps=8"),
    *("log_every=1", "validate_every=8", "sample_every=0", "snapshot_every=0", "checkpoint_every=0"),
)
ASKED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_RESHARD_AFTER_FORWARD": "false",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
}

RUNS: dict[str, tuple[int, list[str], dict[str, str]]] = {  # name -> world size, overrides, environment
    "alone": (1, [], {}),
    "alone_in_one": (1, ["micro_batch=10"], {}),
    "ddp": (2, ["sharding=none"], {}),
    "full_shard": (2, ["sharding=full_shard"], {}),
    "shard_grad_op": (2, ["sharding=auto", "model.checkpointing=blocks"], ASKED),
    "hybrid_shard": (4, ["sharding=hybrid_shard"], {"LOCAL_WORLD_SIZE": "2"}),
}
BF16 = ("ddp", "full_shard")
PICTURED = ("alone", "ddp", "full_shard")
IN_STAGE = {1: ("alone_in_one", "hybrid_shard"), 2: (), 3: ()}
ALWAYS = ("alone", "ddp", "full_shard", "shard_grad_op")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs in <stage>/<name>, bf16/<name> and poisoned, and what a gradient scaler saw in <rank>.json."""
    root = tmp_path_factory.mktemp("runs")
    wanted = []
    for stage in STAGES:
        for name in (*ALWAYS, *IN_STAGE[stage]):
            pictures = ["sample_every=8"] if stage == 2 and name in PICTURED else []
            wanted.append(run(name, stage, root / str(stage) / name, *pictures))
    wanted += [run(name, 1, root / "bf16" / name, "precision=bf16", "steps=3", "validate_every=3") for name in BF16]
    poisoned = run("full_shard", 1, root / "poisoned", "on_nonfinite=skip", "steps=2", "validate_every=0")
    launch(root, *wanted, {**poisoned, "poisoned": "blocks.1.mlp.fc2"})
    return root


def run(name: str, stage: int, run_dir: Path, *more: str) -> dict[str, Any]:
    world_size, overrides, environ = RUNS[name]
    overrides = [f"+stage={stage}", *SMALL, *overrides, *more, f"run_dir={run_dir}"]
    return {"world_size": world_size, "overrides": overrides, "kill_at": None, "environ": environ}


def launch(root: Path, *wanted: dict[str, Any]) -> None:
    run_script("shards.py", str(root), wanted=wanted)


def logged(run_dir: Path, *keys: str) -> list[list[float]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [[line[key] for key in keys] for line in lines if keys[0] in line]


def said(run_dir: Path) -> list[str]:
    return json.loads((run_dir / "said_0.json").read_text())


def others(stage: int) -> list[str]:
    return [name for name in (*ALWAYS, *IN_STAGE[stage]) if name != "alone"]


@pytest.mark.parametrize("stage", STAGES)
def test_8_steps_have_the_same_losses_and_gradient_norms_to_1e_5(root: Path, stage: int) -> None:
    alone = np.array(logged(root / str(stage) / "alone", "loss", "mse", "grad_norm"))
    assert alone.shape == (8, 3)
    for name in others(stage):
        np.testing.assert_allclose(
            np.array(logged(root / str(stage) / name, "loss", "mse", "grad_norm")), alone, rtol=1e-5, err_msg=name
        )


@pytest.mark.parametrize("stage", STAGES)
def test_the_averaged_weights_have_the_same_losses_by_timestep_to_1e_5(root: Path, stage: int) -> None:
    """3 held-out batches over 2 ranks: the ranks run different numbers of forwards."""
    keys = ("validation_loss", "validation_mse", *(f"validation_mse_{i}" for i in range(4)))
    alone = np.array(logged(root / str(stage) / "alone", *keys))
    assert alone.shape == (2, 6)
    assert abs(alone[1] / alone[0] - 1).min() > 1e-3  # else the law would say little
    for name in others(stage):
        np.testing.assert_allclose(logged(root / str(stage) / name, *keys), alone, rtol=1e-5, err_msg=name)


def test_the_warm_up_takes_4_steps_on_1_2_or_4_processes_in_1_or_4_micro_batches_sharded_or_not(root: Path) -> None:
    peak = logged(root / "1" / "alone", "lr")[-1][0]
    for name in ("alone", *others(1)):
        rates = [rate for (rate,) in logged(root / "1" / name, "lr")]
        assert rates == pytest.approx([peak * share for share in (0.25, 0.5, 0.75, 1, 1, 1, 1, 1)]), name


def test_the_pictures_of_sharded_weights_are_those_of_whole_ones_to_1_of_255(root: Path) -> None:
    def pixels(name: str) -> np.ndarray[Any, Any]:
        return np.asarray(Image.open(root / "2" / name / "samples" / "step_00000008.png")).astype(int)

    for name in ("ddp", "full_shard"):
        assert abs(pixels(name) - pixels("alone")).max() <= 1


def test_in_bf16_autocast_is_as_under_ddp_to_1e_5(root: Path) -> None:
    ddp, sharded = (logged(root / "bf16" / name, "loss", "grad_norm") for name in BF16)
    np.testing.assert_allclose(sharded, ddp, rtol=1e-5)
    assert abs(np.array(ddp) / np.array(logged(root / "1" / "ddp", "loss", "grad_norm"))[:3] - 1).max() > 1e-5


@pytest.mark.parametrize("name", ["ddp", "full_shard", "shard_grad_op", "hybrid_shard"])
def test_the_first_line_says_which_sharding_it_is(root: Path, name: str) -> None:
    kind = "none" if name == "ddp" else name
    assert f"sharding {kind}," in said(root / "1" / name)[0]


def test_2_updates_that_are_not_finite_in_one_shard_are_masked_everywhere_and_named(root: Path) -> None:
    assert logged(root / "poisoned", "skipped_updates") == [[1], [1]]
    named = [line for line in said(root / "poisoned") if "not finite" in line]
    assert len(named) == 2
    assert all("first in module blocks.1.mlp.fc2" in line for line in named)
    assert "global batch 0 " in named[0]


def test_an_infinite_gradient_in_1_of_2_shards_makes_the_scaler_skip_on_both(root: Path) -> None:
    for rank in range(2):
        seen = json.loads((root / f"{rank}.json").read_text())
        assert [step["moved"] for step in seen] == [True, False, True]
        assert [step["scale"] for step in seen] == [8.0, 4.0, 4.0]
        assert seen[0]["rows"] == 2 - rank


def test_of_2_micro_batches_the_first_leaves_no_gradient_in_the_shards(root: Path) -> None:
    for rank in range(2):
        assert [step["travelled"] for step in json.loads((root / f"{rank}.json").read_text())] == [[False, True]] * 3
