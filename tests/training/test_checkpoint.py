"""Checkpoints are whole or passed over, and the newest good one is used."""

from pathlib import Path

import pytest
import torch

from pixart.training.checkpoint import STATE, Checkpoints


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def checkpoints(tmp_path: Path, warnings: list[str]) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", keep=2, warn=warnings.append)


def state(step: int) -> dict[str, object]:
    return {"step": step, "weights": torch.arange(5) + step}


def test_a_checkpoint_round_trips_and_latest_points_at_the_newest(checkpoints: Checkpoints) -> None:
    assert checkpoints.latest() is None
    checkpoints.save(1, state(1))
    checkpoints.save(10, state(10))
    loaded = checkpoints.latest()
    assert loaded is not None
    assert loaded["step"] == 10
    assert torch.equal(loaded["weights"], torch.arange(5) + 10)
    assert (checkpoints.folder / "latest").read_text() == "step_00000010"


def test_only_the_2_newest_are_kept(checkpoints: Checkpoints) -> None:
    for step in (1, 2, 3):
        checkpoints.save(step, state(step))
    assert sorted(p.name for p in checkpoints.folder.glob("step_*")) == ["step_00000002", "step_00000003"]


@pytest.mark.parametrize(
    "damage", ["truncated", "flipped", "missing", "no manifest", "[1, 2]", '{"sha256": []}', '{"sha256": {}}']
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    checkpoints: Checkpoints, warnings: list[str], damage: str
) -> None:
    checkpoints.save(1, state(1))
    file = checkpoints.save(2, state(2)) / STATE
    content = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(content[:-10])
    elif damage == "flipped":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "missing":
        file.unlink()
    elif damage == "no manifest":
        (file.parent / "manifest.json").unlink()
    else:
        (file.parent / "manifest.json").write_text(damage)
    loaded = checkpoints.latest()
    assert loaded is not None
    assert loaded["step"] == 1
    assert len(warnings) == 1
    assert "step_00000002" in warnings[0]


def test_where_every_checkpoint_is_damaged_the_sentence_names_the_folder(checkpoints: Checkpoints) -> None:
    (checkpoints.save(1, state(1)) / STATE).unlink()
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be read"):
        checkpoints.latest()


def test_a_write_that_was_cut_off_leaves_the_earlier_checkpoint_in_place(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.save(1, state(1))

    def cut_off(_value: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", cut_off)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(2, state(2))
    monkeypatch.undo()
    loaded = checkpoints.latest()
    assert loaded is not None
    assert loaded["step"] == 1
    checkpoints.save(2, state(2))  # what was left aside is no obstacle
    assert checkpoints.latest() is not None
