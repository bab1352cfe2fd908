"""A run and its checkpoints: what it waits for, what it says, and what it refuses."""

import errno
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from miniature import Silent, small

from pixart.build.training import run_training
from pixart.training import loop
from pixart.training.checkpoints import checkpoint, pieces
from pixart.training.checkpoints.resumption import Resumption, read_checkpoint

QUICK = ["validate_every=0", "sample_every=0", "snapshot_every=0", "log_every=1", "checkpoint_every=1"]


def run(run_dir: Path, *overrides: str) -> list[str]:
    display = Silent()
    run_training(small(1, run_dir, *QUICK, *overrides), lambda _: display)
    return display.said


def steps_in(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


def newest(run_dir: Path) -> Path:
    return run_dir / "checkpoints" / (run_dir / "checkpoints" / "latest").read_text()


def full_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The disk takes no more when the tensors of ``step`` are written."""
    write = pieces.write_pieces

    def no_more(path: Path, held: list[pieces.Piece]) -> str:
        digest = write(path, held)
        if f"{step:08d}" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return digest

    monkeypatch.setattr(checkpoint, "write_pieces", no_more)


def fail_at_second_step(monkeypatch: pytest.MonkeyPatch) -> None:
    learn = loop.learn

    def learn_once(learner: loop.Learner, step: Any) -> None:
        if learner.progress.step:
            raise ValueError("the second step failed")
        learn(learner, step)

    monkeypatch.setattr(loop, "learn", learn_once)


@pytest.mark.parametrize(("steps", "background"), [(2, True), (4, True), (4, False)])
def test_a_full_disk_ends_the_run_with_1_sentence_whenever_it_is_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, background: bool
) -> None:
    """At the next checkpoint, or at the end; and the same command goes on from the last good one."""
    with monkeypatch.context() as patched:
        full_at(patched, 2)
        with pytest.raises(
            ValueError, match=r"step_00000002 cannot be written \(No space left on device\).*step_00000001"
        ):
            run(tmp_path, f"steps={steps}", f"background_save={background}")
    assert steps_in(tmp_path) == ["latest", "step_00000001"]
    assert any("resumed at step 1 of 4" in said for said in run(tmp_path, "steps=4"))


def test_training_goes_on_while_a_checkpoint_is_written_and_the_next_one_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, at_once, logged = pieces.write_pieces, threading.Semaphore(1), []

    def slow(path: Path, held: list[pieces.Piece]) -> str:
        assert at_once.acquire(blocking=False), "one at a time"
        time.sleep(0.5)
        logged.append(len((tmp_path / "metrics.jsonl").read_text().splitlines()))
        at_once.release()
        return write(path, held)

    monkeypatch.setattr(checkpoint, "write_pieces", slow)
    run(tmp_path, "steps=6", "checkpoint_every=3")
    assert logged == [6, 6]  # steps 4 to 6 were made while step 3 was written; the end waited for its own
    state = read_checkpoint(tmp_path / "checkpoints" / "step_00000003")
    assert state["progress"]["step"] == 3
    assert {float(one["step"]) for one in state["optimizer"]["state"].values()} == {3.0}


def test_an_error_in_training_lets_the_checkpoint_under_way_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at_second_step(monkeypatch)
    write = pieces.write_pieces
    monkeypatch.setattr(checkpoint, "write_pieces", lambda *given: [time.sleep(0.5), write(*given)][1])
    with pytest.raises(ValueError, match="the second step failed"):
        run(tmp_path, "steps=3")
    assert steps_in(tmp_path) == ["latest", "step_00000001"]


def test_a_checkpoint_that_fails_beside_an_error_in_training_is_told_and_the_error_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_at(monkeypatch, 1)
    fail_at_second_step(monkeypatch)
    display = Silent()
    with pytest.raises(ValueError, match="the second step failed"):
        run_training(small(1, tmp_path, *QUICK, "steps=3"), lambda _: display)
    assert any("step_00000001 cannot be written" in said for said in display.said)


def test_a_damaged_checkpoint_is_passed_over_and_the_run_ends_as_it_would_have(tmp_path: Path) -> None:
    run(tmp_path / "straight", "steps=4")
    run(tmp_path / "damaged", "steps=3")
    file = newest(tmp_path / "damaged") / "rank_00000.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    said = run(tmp_path / "damaged", "steps=4")
    assert (
        sum("step_00000003 is passed over: rank_00000.safetensors does not have the checksum" in one for one in said)
        == 1
    )
    assert any("resumed at step 2 of 4" in one for one in said)
    states = [read_checkpoint(newest(tmp_path / name)) for name in ("straight", "damaged")]
    assert all(torch.equal(states[0]["model"][name], tensor) for name, tensor in states[1]["model"].items())
    assert [json.loads(line)["step"] for line in (tmp_path / "damaged/metrics.jsonl").open()] == [1, 2, 3, 4]


def test_a_checkpoint_of_another_model_names_1_tensor(tmp_path: Path) -> None:
    run(tmp_path, "steps=1")
    config = tmp_path / "config.yaml"
    config.write_text(config.read_text().replace("mlp_ratio: 4", "mlp_ratio: 2"))
    with pytest.raises(
        ValueError, match=r"step_00000001 is of another model: its tensor .*mlp.* is \(\d+,.* where this "
    ):
        run(tmp_path, "steps=2", "model.mlp_ratio=2")


def test_a_step_is_saved_once_however_often_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Any] = []
    save, write = Resumption.save, checkpoint.Checkpoints.write
    monkeypatch.setattr(Resumption, "save", lambda *given: [save(*given), save(*given)])
    monkeypatch.setattr(checkpoint.Checkpoints, "write", lambda *given: [written.append(given[1]), write(*given)])
    run(tmp_path, "steps=2")
    assert written == [1, 2]
