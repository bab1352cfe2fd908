"""One live run a folder, and the folder remembers its configuration."""

import json
from pathlib import Path

import pytest
import torch

from pixart.training import run_directory
from pixart.training.run_directory import RunDirectory


def test_a_second_live_run_is_refused_and_the_next_one_is_let_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_directory, "LOCK_PATIENCE", 0.3)
    first = RunDirectory(tmp_path / "run", rank=0)
    with pytest.raises(ValueError, match=r"another run is alive in .*run.*run_dir"):
        RunDirectory(tmp_path / "run", rank=0)
    RunDirectory(tmp_path / "run", rank=1).release()  # another rank of the same run
    first.release()
    RunDirectory(tmp_path / "run", rank=0).release()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"run_dir .*file/run cannot be written"):
        RunDirectory(tmp_path / "file" / "run", rank=0)


def test_a_part_of_a_checkpoint_is_none(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path, rank=0)
    (directory.checkpoints / ".step_00000001.new").mkdir(parents=True)
    assert not directory.has_checkpoint
    (directory.checkpoints / "step_00000001").mkdir()
    assert directory.has_checkpoint
    directory.release()


def test_the_configuration_and_the_environment_are_written_and_read(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path, rank=0)
    assert directory.earlier_config() is None
    values = {"steps": 3, "betas": [0.9, 0.999], "eps": 1e-10, "prompt": "ein Würfel: «rot»"}
    directory.write_config(values)
    assert directory.earlier_config() == values
    directory.write_environment(world_size=2, device=torch.device("cpu"))
    assert json.loads((tmp_path / "environment.json").read_text())["world_size"] == 2
    directory.release()
