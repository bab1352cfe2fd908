"""Two runs are the same to the bit, or it is said where they differ."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pixart.torture.comparison import differences, end_state


def finished(
    run: Path, *, weight: float = 0.0, loss: float = 0.5, seconds: float = 1.0, file: str = "rank_00000"
) -> Path:
    """A run of one step with two weights, one of them in a file of its own."""
    step = run / "checkpoints" / "step_00000001"
    step.mkdir(parents=True)
    (step.parent / "latest").write_text(step.name)
    save_file({"model/a": torch.tensor([1.0, float("nan")])}, step / "rank_00000.safetensors")
    found = {"model/b": torch.tensor([weight])}
    if file == "rank_00000":
        found["model/a"] = torch.tensor([1.0, float("nan")])
    save_file(found, step / f"{file}.safetensors")
    (step / "state.json").write_text(json.dumps({"progress": {"step": 1}}))
    (step / "manifest.json").write_text(f"{seconds}")
    line = {"step": 1, "loss": loss, "images_per_second": seconds}
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    return run


def told(tmp_path: Path, **changes: Any) -> list[str]:
    one, other = finished(tmp_path / "one"), finished(tmp_path / "other", **changes)
    return differences(end_state(other), end_state(one))


def test_times_and_which_of_2_ranks_wrote_a_tensor_are_no_difference(tmp_path: Path) -> None:
    assert told(tmp_path, seconds=2.0, file="rank_00001") == []


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"weight": -0.0}, "checkpoint.model/b"),
        ({"loss": 0.5000000000000001}, "log of step 1, line 1: loss"),
    ],
)
def test_the_last_bit_of_1_weight_or_1_loss_is_a_difference(
    tmp_path: Path, change: dict[str, float], place: str
) -> None:
    assert told(tmp_path, **change) == [f"1 values differ: {place}"]


def test_a_line_logged_twice_and_a_part_left_behind_are_2_differences(tmp_path: Path) -> None:
    one, other = finished(tmp_path / "one"), finished(tmp_path / "other")
    line = (other / "metrics.jsonl").read_text()
    (other / "metrics.jsonl").write_text(line + line)
    (other / "checkpoints" / ".step_00000002.new").mkdir()
    assert differences(end_state(other), end_state(one)) == [
        "2 values are there for no reason: log of step 1, line 2: loss, log of step 1, line 2: step",
        "left behind: checkpoints/.step_00000002.new",
    ]
