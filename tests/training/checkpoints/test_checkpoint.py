"""Checkpoints are whole or passed over, and the newest good one is used."""

import errno
import json
import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pixart.training.checkpoints import checkpoint, manifest, pieces
from pixart.training.checkpoints.checkpoint import LATEST, STATE, Checkpoints
from pixart.training.checkpoints.manifest import MANIFEST
from pixart.training.checkpoints.pieces import Division
from pixart.training.checkpoints.resumption import read_checkpoint
from pixart.training.processes.ranks import Ranks

TENSORS = "rank_00000.safetensors"


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def checkpoints(tmp_path: Path, warnings: list[str]) -> Checkpoints:
    return made(tmp_path, warnings)


def made(root: Path, warnings: list[str], *, keep: int = 2, every: int = 0, logs: Sequence[Path] = ()) -> Checkpoints:
    return Checkpoints(root / "checkpoints", Ranks(), keep=keep, keep_every=every, logs=logs, warn=warnings.append)


def tensors(step: int) -> dict[str, Tensor]:
    return {"model/weights": torch.arange(5) + step}


def save(checkpoints: Checkpoints, step: int) -> Path:
    checkpoints.write(step, Division(checkpoints.ranks).mine(tensors(step)), json.dumps({"step": step}))
    return checkpoints.folder / f"step_{step:08d}"


def newest(checkpoints: Checkpoints) -> dict[str, Any] | None:
    folder = checkpoints.newest()
    return None if folder is None else read_checkpoint(folder)


def held(checkpoints: Checkpoints) -> list[str]:
    """Everything in the folder, hidden parts too."""
    return sorted(path.name for path in checkpoints.folder.iterdir())


def steps(checkpoints: Checkpoints) -> list[int]:
    return [int(name.removeprefix("step_")) for name in held(checkpoints) if name != LATEST]


def test_a_checkpoint_round_trips_and_latest_points_at_the_newest(checkpoints: Checkpoints) -> None:
    assert newest(checkpoints) is None
    save(checkpoints, 1)
    save(checkpoints, 10)
    loaded = newest(checkpoints)
    assert loaded is not None
    assert loaded["step"] == 10
    assert torch.equal(loaded["model"]["weights"], torch.arange(5) + 10)
    assert (checkpoints.folder / LATEST).read_text() == "step_00000010"


def test_no_file_of_a_checkpoint_is_a_pickle(checkpoints: Checkpoints) -> None:
    assert sorted(file.name for file in save(checkpoints, 1).iterdir()) == sorted([MANIFEST, STATE, TENSORS])


def test_the_2_newest_stay_and_every_3rd_step_for_good(tmp_path: Path, warnings: list[str]) -> None:
    checkpoints = made(tmp_path, warnings, keep=2, every=3)
    for step in range(1, 9):
        save(checkpoints, step)
    assert steps(checkpoints) == [3, 6, 7, 8]


def test_steps_beyond_8_digits_are_still_in_order(tmp_path: Path, warnings: list[str]) -> None:
    checkpoints = made(tmp_path, warnings, keep=1)
    save(checkpoints, 99_999_999)
    save(checkpoints, 100_000_000)
    assert steps(checkpoints) == [100_000_000]


DAMAGE = {
    "truncated": lambda folder: cut(folder / TENSORS, 10),
    "flipped": lambda folder: flip(folder / TENSORS),
    "missing": lambda folder: (folder / TENSORS).unlink(),
    "flipped state": lambda folder: flip(folder / STATE),
    "missing state": lambda folder: (folder / STATE).unlink(),
    "a folder for a file": lambda folder: [(folder / STATE).unlink(), (folder / STATE).mkdir()],
    "a file more": lambda folder: (folder / "rank_00001.safetensors").write_bytes(b"?"),
    "no manifest": lambda folder: (folder / MANIFEST).unlink(),
    "half a manifest": lambda folder: cut(folder / MANIFEST, 3),
    "another's manifest": lambda folder: (folder / MANIFEST).write_text('{"step": 1, "sha256": {"a": "b"}}'),
    "[1, 2]": lambda folder: (folder / MANIFEST).write_text("[1, 2]"),
    "no digests": lambda folder: (folder / MANIFEST).write_text('{"step": 2, "sha256": {}}'),
}


def cut(file: Path, count: int) -> None:
    file.write_bytes(file.read_bytes()[:-count])


def flip(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    checkpoints: Checkpoints, warnings: list[str], damage: str
) -> None:
    save(checkpoints, 1)
    DAMAGE[damage](save(checkpoints, 2))
    loaded = newest(checkpoints)
    assert loaded is not None
    assert loaded["step"] == 1
    assert len(warnings) == 1
    assert "step_00000002 is passed over: " in warnings[0]


def test_where_every_checkpoint_is_damaged_the_sentence_names_the_folder(checkpoints: Checkpoints) -> None:
    (save(checkpoints, 1) / STATE).unlink()
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be read: delete the folder to start again"):
        checkpoints.newest()


def test_a_damaged_newer_checkpoint_does_not_push_out_the_1_that_is_kept(tmp_path: Path, warnings: list[str]) -> None:
    checkpoints = made(tmp_path, warnings, keep=2)
    for step in (1, 5):
        damaged = save(checkpoints, step)
    flip(damaged / TENSORS)
    resumed = made(tmp_path, warnings, keep=1)
    assert resumed.newest() == checkpoints.folder / "step_00000001"
    save(resumed, 3)  # another cadence than before
    assert steps(resumed) == [3]


def test_a_damaged_checkpoint_is_written_again_when_its_step_comes(checkpoints: Checkpoints) -> None:
    save(checkpoints, 1)
    flip(save(checkpoints, 2) / TENSORS)
    newest(checkpoints)
    save(checkpoints, 2)
    loaded = newest(checkpoints)
    assert loaded is not None
    assert loaded["step"] == 2
    assert steps(checkpoints) == [1, 2]


@pytest.mark.parametrize("pointer", ["step_00000001", "step_00000007", None])
def test_a_pointer_that_is_not_at_the_newest_is_told_and_mended(
    checkpoints: Checkpoints, warnings: list[str], pointer: str | None
) -> None:
    save(checkpoints, 1)
    save(checkpoints, 2)
    (checkpoints.folder / LATEST).write_text(pointer) if pointer else (checkpoints.folder / LATEST).unlink()
    assert checkpoints.newest() == checkpoints.folder / "step_00000002"
    assert len(warnings) == 1
    assert f"names {pointer or 'nothing'}, but the newest checkpoint is step_00000002" in warnings[0]
    assert (checkpoints.folder / LATEST).read_text() == "step_00000002"


def test_a_checkpoint_of_the_earlier_version_is_refused_with_the_mend(checkpoints: Checkpoints) -> None:
    folder = checkpoints.folder / "step_00000004"
    folder.mkdir(parents=True)
    torch.save({"progress": {"step": 4}}, folder / "state.pt")
    manifest.write_manifest(
        folder, step=4, digests={"state.pt": sha256((folder / "state.pt").read_bytes()).hexdigest()}
    )
    with pytest.raises(ValueError, match=r"step_00000004 was written by an earlier version .*init_from="):
        checkpoints.newest()


def test_what_dead_runs_left_is_cleared_by_a_run_that_goes_on_and_saves_no_more(checkpoints: Checkpoints) -> None:
    save(checkpoints, 1)
    for name in (".step_00000002.new", ".step_00000000.old"):
        (checkpoints.folder / name).mkdir()
    newest(checkpoints)
    assert held(checkpoints) == [LATEST, "step_00000001"]


def test_what_dead_runs_left_is_cleared_by_the_next_save(checkpoints: Checkpoints) -> None:
    save(checkpoints, 1)
    for name in (".step_00000002.new", ".step_00000000.old"):
        (checkpoints.folder / name / "part").mkdir(parents=True)
    save(checkpoints, 2)
    assert held(checkpoints) == ["latest", "step_00000001", "step_00000002"]


def full(*_arguments: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(("module", "call"), [(pieces, 1), (manifest, 1), (manifest, 2)])
def test_a_full_disk_is_one_sentence_and_leaves_the_last_good_one(
    checkpoints: Checkpoints, warnings: list[str], monkeypatch: pytest.MonkeyPatch, module: Any, call: int
) -> None:
    """At the tensors, the state or the manifest."""
    save(checkpoints, 1)
    calls: list[object] = []
    with monkeypatch.context() as patched:
        patched.setattr(module.os, "fsync", lambda file: [calls.append(file), len(calls) == call and full()])
        with pytest.raises(ValueError, match=r"step_00000002 cannot be written \(No space left on device\): free "
                           r"space .* keep_checkpoints, .*; the last good one is step_00000001"):  # fmt: skip
            save(checkpoints, 2)
    assert held(checkpoints) == ["latest", "step_00000001"]
    assert newest(checkpoints) is not None
    assert not warnings
    save(checkpoints, 2)
    assert steps(checkpoints) == [1, 2]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path, warnings: list[str]) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(ValueError, match=r"cannot be written \(Not a directory\): see that .* none before it"):
        save(made(tmp_path, warnings), 1)


def test_logs_are_on_the_disk_before_the_checkpoint_that_counts_on_them_is_final(
    tmp_path: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = [tmp_path / "metrics.jsonl", tmp_path / "bad_samples.jsonl"]
    logs[0].write_text("{}\n")  # no sample was bad yet
    order: list[str] = []
    flush, replace = checkpoint.flush, Path.replace
    monkeypatch.setattr(checkpoint, "flush", lambda path: [order.append(path.name), flush(path)])
    monkeypatch.setattr(Path, "replace", lambda path, to: [order.append(to.name), replace(path, to)])
    save(made(tmp_path, warnings, logs=logs), 1)
    assert order[:2] == [tmp_path.name, "metrics.jsonl"]  # where the folder of checkpoints is new
    assert order.index("metrics.jsonl") < order.index("step_00000001")


@pytest.mark.parametrize("at", range(1, 6))
def test_a_kill_at_any_rename_or_removal_leaves_1_or_2_to_go_on_from(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Dying is an exception that nobody expects; five renames and removals are in a save that forgets an old one."""
    save(checkpoints, 1)
    save(checkpoints, 2)
    done: list[int] = []

    def dying(real: Any) -> Any:
        def work(*arguments: Any, **options: Any) -> Any:
            done.append(1)
            if len(done) >= at:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        return work

    checkpoints.keep = 1
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", dying(Path.replace))
        patched.setattr(checkpoint.shutil, "rmtree", dying(checkpoint.shutil.rmtree))
        with pytest.raises(KeyboardInterrupt):
            save(checkpoints, 3)
    loaded = newest(checkpoints)
    assert loaded is not None
    assert loaded["step"] == (2 if at == 1 else 3)
    save(checkpoints, 4)
    assert steps(checkpoints) == [4]
