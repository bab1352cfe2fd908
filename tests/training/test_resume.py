"""Killed and started again, on one process or two: the same weights, averages and log as if nothing had happened."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from miniature import SMALL
from scripts import run_script

from pixart.formats.snapshot import find_snapshot, read_snapshot
from pixart.training.checkpoints.resumption import read_checkpoint

TIMED = {"images_per_second", "tflops", "mfu", "data_wait", "memory"}
STAGES = (1, 2, 3)
# Every ordered pair of two with copies (DDP), two with shards (FSDP2) and one alone; each makes one step and ends.
CHAIN = [(2, "none"), (1, "none"), (2, "full_shard"), (1, "none"), (2, "none"), (2, "full_shard"), (2, "none")]
STEPWISE = [*SMALL, "log_every=1", "validate_every=0", "sample_every=0", "snapshot_every=0"]


def launch(*runs: tuple[int, list[str], int | None]) -> None:
    wanted = [dict(zip(("world_size", "overrides", "kill_at"), run, strict=True)) for run in runs]
    run_script("ranks.py", wanted=wanted)


def log_of(run_dir: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMED} for line in lines]


def state_of(run_dir: Path) -> dict[str, Any]:
    return read_checkpoint(run_dir / "checkpoints" / "step_00000008")


def assert_identical(a: Any, b: Any, path: str = "") -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_identical(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (left, right) in enumerate(zip(a, b, strict=True)):
            assert_identical(left, right, f"{path}.{i}")
    else:
        assert a == b, path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """<stage>/unbroken and <stage>/killed on two ranks, <stage>/alone on one: all of the same eight global batches.

    And seven steps of stage 2 at one go in ``straight``, and as ``CHAIN`` has it in ``chain``.
    """
    root = tmp_path_factory.mktemp("runs")
    wanted: list[tuple[int, list[str], int | None]] = []
    for stage in STAGES:

        def overrides(name: str, stage: int = stage) -> list[str]:
            return [f"+stage={stage}", *SMALL, f"run_dir={root / str(stage) / name}"]

        wanted += [
            (2, overrides("unbroken"), None),
            (2, overrides("killed"), 4),
            (2, overrides("killed"), None),
            (1, overrides("alone"), None),
        ]
    wanted += [
        (size, ["+stage=2", *STEPWISE, f"steps={step}", f"sharding={sharding}", f"run_dir={root / 'chain'}"], None)
        for step, (size, sharding) in enumerate(CHAIN, start=1)
    ]
    wanted.append((1, ["+stage=2", *STEPWISE, f"steps={len(CHAIN)}", f"run_dir={root / 'straight'}"], None))
    launch(*wanted)
    return root


@pytest.mark.parametrize("stage", STAGES)
def test_8_steps_on_two_ranks_equal_some_killed_and_the_rest_bit_for_bit(runs: Path, stage: int) -> None:
    killed, unbroken = runs / str(stage) / "killed", runs / str(stage) / "unbroken"
    assert log_of(killed) == log_of(unbroken)
    assert_identical(state_of(killed), state_of(unbroken))
    assert_identical(*(read_snapshot(find_snapshot(run)).tensors for run in (killed, unbroken)))
    grids = [(run / "samples" / "step_00000008.png").read_bytes() for run in (killed, unbroken)]
    assert grids[0] == grids[1]


@pytest.mark.parametrize("stage", STAGES)
def test_one_rank_and_two_log_the_same_losses_to_1e_5(runs: Path, stage: int) -> None:
    alone, two = log_of(runs / str(stage) / "alone"), log_of(runs / str(stage) / "unbroken")
    assert len(alone) == len(two) == 7
    for one, other in zip(alone, two, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


def test_6_changes_of_processes_and_layout_leave_the_losses_as_they_were_to_1e_5(runs: Path) -> None:
    chain, straight = log_of(runs / "chain"), log_of(runs / "straight")
    assert [line["step"] for line in chain] == list(range(1, len(CHAIN) + 1))
    for one, other in zip(chain, straight, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


def test_6_changes_of_processes_and_layout_read_the_same_batches(runs: Path) -> None:
    chain, straight = keys_of(runs / "chain"), keys_of(runs / "straight")
    assert len(straight) == len(CHAIN) * 8
    assert {place: chain[place] for place in straight} == straight  # one may have read ahead


def keys_of(run_dir: Path) -> dict[tuple[int, int], str]:
    """(global batch, position) -> key, whoever read it."""
    lines = [json.loads(line) for file in run_dir.glob("keys_*.jsonl") for line in file.read_text().splitlines()]
    return {(line["k"], line["start"] + i): key for line in lines for i, key in enumerate(line["keys"])}
