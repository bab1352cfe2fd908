"""Laws of the loop, on real runs of a few steps."""

import json
import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from miniature import Silent, small

from pixart.build import training
from pixart.build.training import run_training
from pixart.formats.snapshot import find_snapshot, read_snapshot
from pixart.training import run_directory


def run(stage: int, run_dir: Path, *overrides: str) -> list[str]:
    display = Silent()
    run_training(small(stage, run_dir, *overrides), lambda _: display)
    return display.said


def logged(run_dir: Path, key: str) -> list[Any]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


def test_an_accumulated_step_equals_a_large_batch_step(tmp_path: Path) -> None:
    for micro_batch in (8, 3):  # one forward of 8, or three ragged ones of 2, 3 and 3
        run(1, tmp_path / str(micro_batch), f"micro_batch={micro_batch}", "steps=4", "log_every=1")
    assert logged(tmp_path / "3", "loss") == pytest.approx(logged(tmp_path / "8", "loss"), rel=1e-5)
    assert logged(tmp_path / "3", "grad_norm") == pytest.approx(logged(tmp_path / "8", "grad_norm"), rel=1e-4)


def test_the_warm_up_counts_optimizer_steps_whatever_the_micro_batch(tmp_path: Path) -> None:
    run(1, tmp_path, "micro_batch=2", "steps=4", "log_every=1", "optimizer.warmup_steps=4", "optimizer.lr=0.01")
    assert logged(tmp_path, "lr") == [0.0025, 0.005, 0.0075, 0.01]


def test_the_loss_falls_and_the_run_directory_holds_what_it_promises(tmp_path: Path) -> None:
    run(1, tmp_path, "steps=40", "log_every=10", "optimizer.lr=3e-3", "optimizer.warmup_steps=1", "snapshot_every=0")
    losses = logged(tmp_path, "loss")
    assert losses[-1] < 0.8 * losses[0]
    for name in ("config.yaml", "environment.json", "metrics.jsonl", "checkpoints/latest", "samples/step_00000040.png"):
        assert (tmp_path / name).is_file(), name
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-2])  # the validation's comes after
    assert {"step", "samples_seen", "loss", "mse", "vlb", "lr", "grad_norm", "images_per_second"} <= last.keys()
    assert {"data_wait", "memory", "skipped_updates", "tflops"} <= last.keys()
    assert last["tflops"] > 0


def test_a_finished_run_is_left_alone_and_more_steps_go_on_from_it(tmp_path: Path) -> None:
    run(1, tmp_path, "steps=3")
    before = (tmp_path / "metrics.jsonl").read_text()
    assert any("resumed at step 3 of 3" in said for said in run(1, tmp_path, "steps=3"))
    assert (tmp_path / "metrics.jsonl").read_text() == before
    run(1, tmp_path, "steps=4")
    assert logged(tmp_path, "step")[-1] == 4


def test_a_run_shortened_to_its_last_checkpoint_still_leaves_a_snapshot_of_it(tmp_path: Path) -> None:
    run(1, tmp_path, "steps=3", "checkpoint_every=2", "keep_checkpoints=2", "snapshot_every=0")
    shutil.rmtree(tmp_path / "checkpoints" / "step_00000003")  # as if it had been killed after step 2
    run(1, tmp_path, "steps=2", "snapshot_every=5")
    assert find_snapshot(tmp_path).name == "step_00000002.safetensors"


def test_a_resume_with_another_configuration_names_the_keys(tmp_path: Path) -> None:
    run(1, tmp_path, "steps=1")
    with pytest.raises(ValueError, match=r"optimizer\.lr \(was 0\.013, is 0\.5\).*seed"):
        run(1, tmp_path, "steps=2", "optimizer.lr=0.5", "seed=7")
    with pytest.raises(ValueError, match="resume=false"):
        run(1, tmp_path, "resume=false")


def test_a_second_live_run_in_the_same_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_directory, "LOCK_PATIENCE", 0.0)
    held = run_directory.RunDirectory(tmp_path, rank=0)
    with pytest.raises(ValueError, match="another run is alive"):
        run(1, tmp_path, "steps=1")
    held.release()
    run(1, tmp_path, "steps=1")


def test_a_batch_too_small_for_its_processes_is_refused() -> None:
    from pixart.data.dataset import cuts

    with pytest.raises(ValueError, match="global_batch=3"):
        cuts(3, micro_batch=1, world_size=4, rank=0, k=0)


def test_stage_1_to_2_to_3_hands_on_and_prints_what_became_of_each_tensor(tmp_path: Path) -> None:
    run(1, tmp_path / "1", "steps=2")
    second = run(2, tmp_path / "2", "steps=2", f"init_from={tmp_path / '1'}")
    assert any("folded" in said and "t_embedder.mlp.2.bias" in said for said in second)
    third = run(3, tmp_path / "3", "steps=2", f"init_from={tmp_path / '2'}")
    assert any("csize_embedder" in said and "fresh" in said for said in third)
    assert read_snapshot(find_snapshot(tmp_path / "3")).samples_seen == 16


def test_stage_2_starts_with_the_loss_of_unconditional_stage_1(tmp_path: Path) -> None:
    """Text cross-attention gives zero at first, so captions cannot matter yet."""
    run(1, tmp_path / "1", "steps=2")
    for name, drop in (("all captions dropped", 1), ("none dropped", 0)):
        overrides = ["steps=1", "log_every=1", f"data.caption_drop={drop}", f"init_from={tmp_path / '1'}"]
        run(2, tmp_path / name, *overrides)
    assert logged(tmp_path / "none dropped", "loss") == logged(tmp_path / "all captions dropped", "loss")


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_an_update_that_is_not_finite_is_named_and_never_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    made = training.model

    def poisoned(*arguments: Any) -> Any:
        model = made(*arguments)
        with torch.no_grad():
            model.get_submodule("blocks.1.mlp.fc2").weight[0, 0] = float("nan")
        return model

    monkeypatch.setattr(training, "model", poisoned)
    overrides = [f"on_nonfinite={policy}", "steps=2", "validate_every=0", "sample_every=0"]
    if policy == "stop":
        with pytest.raises(ValueError, match=r"global batch 0 .*labelled-train.*blocks\.1\.mlp"):
            run(1, tmp_path, *overrides)
        assert not (tmp_path / "checkpoints").exists()
    else:
        assert any("blocks.1.mlp" in said for said in run(1, tmp_path, *overrides))
        assert logged(tmp_path, "skipped_updates") == [2]


@pytest.mark.parametrize(
    ("made", "words"),
    [("missing", "no such file"), ("empty", "no snapshot in this directory"), ("truncated", "not a whole safetensors")],
)
def test_a_start_that_cannot_be_read_is_one_sentence(tmp_path: Path, made: str, words: str) -> None:
    start = tmp_path / "start"
    if made == "empty":
        start.mkdir()
    if made == "truncated":
        run(1, tmp_path / "1", "steps=1")
        start = find_snapshot(tmp_path / "1")
        start.write_bytes(start.read_bytes()[:-100])
    with pytest.raises(ValueError, match=words):
        run(2, tmp_path / "2", f"init_from={start}")
    assert not (tmp_path / "2" / "config.yaml").exists()


@pytest.mark.parametrize(("tracker", "pattern"), [("tensorboard", "logs/**/events.*"), ("wandb", "wandb/**/*.wandb")])
def test_a_tracker_writes_into_the_run_directory_and_never_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: str, pattern: str
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    run(1, tmp_path, f"tracker={tracker}", "steps=2", "validate_every=0", "sample_every=0")
    assert list(tmp_path.glob(pattern))


def test_a_run_that_made_no_checkpoint_binds_nobody_to_its_configuration(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not one of the 10 classes"):
        run(1, tmp_path, "data.num_classes=10", "steps=1", "sample_every=0", "validate_every=0")
    run(1, tmp_path, "steps=1")
    (tmp_path / "config.yaml").write_text("a: [b")
    with pytest.raises(ValueError, match=r"config\.yaml is not a configuration"):
        run(1, tmp_path, "steps=2")
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(ValueError, match=r"checkpoints and no config\.yaml"):
        run(1, tmp_path, "steps=2")


def test_a_run_that_fails_leaves_no_worker_behind(tmp_path: Path) -> None:
    before = set(multiprocessing.active_children())
    with pytest.raises(ValueError, match="not one of the 10 classes") as caught:
        run(1, tmp_path, "data.num_classes=10", "sample_every=0", "validate_every=0")
    assert set(multiprocessing.active_children()) == before, caught  # whose traceback still holds the loop


def test_a_ledger_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "ledger.json").write_text("[]")
    with pytest.raises(ValueError, match=r"ledger\.json is not a ledger: delete it"):
        run(1, tmp_path, "steps=1")
