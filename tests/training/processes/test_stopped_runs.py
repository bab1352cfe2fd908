"""Runs that are asked to stop: saved, said so, and gone on with bit for bit, whoever launched them and was asked."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from miniature import SMALL, Silent, small
from scripts import run_script
from signalled import hears
from torch.utils._pytree import keystr, tree_flatten_with_path

from pixart.build.training import run_training
from pixart.training.checkpoints.checkpoint import Checkpoints
from pixart.training.checkpoints.resumption import read_checkpoint
from pixart.training.processes.stopping import Signals

BIN, TRAIN = Path(sys.executable).parent, str(Path(__file__).parents[3] / "train.py")


def state_of(run_dir: Path, step: int) -> dict[str, Any]:
    """All that a checkpoint holds, by name."""
    state = read_checkpoint(run_dir / "checkpoints" / f"step_{step:08d}")
    leaves = tree_flatten_with_path(state)[0]
    return {keystr(path): leaf.tolist() if isinstance(leaf, torch.Tensor) else leaf for path, leaf in leaves}


BRIEF = ("validate_every=0", "sample_every=0", "snapshot_every=0", "data.workers=0", "log_every=1", "model.depth=1")


class Asking(Silent):
    """A display that sends this process a signal when a step is shown."""

    def __init__(self, step: int):
        super().__init__()
        self.step = step

    def update(self, step: int, _values: dict[str, float]) -> None:
        if step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_asked_at_step_3_of_6_is_stopped_saved_and_goes_on_to_the_numbers_of_one_that_was_not(
    tmp_path: Path,
) -> None:
    configs = [small(1, tmp_path / name, *BRIEF, "steps=6", "checkpoint_every=6") for name in ("stopped", "unbroken")]
    assert run_training(configs[0], lambda _: Asking(3)) == (tmp_path / "stopped", 3, "SIGTERM")
    asked = json.loads((tmp_path / "stopped" / "requeue").read_text())
    assert (asked["step"], asked["steps"], asked["signal"]) == (3, 6, "SIGTERM")
    assert (tmp_path / "stopped" / "checkpoints" / "latest").read_text() == "step_00000003"
    assert "device_hours" in (tmp_path / "stopped" / "ledger.json").read_text()
    for config in configs:
        assert run_training(config, lambda _: Silent()).stopped_by is None
    assert not (tmp_path / "stopped" / "requeue").exists()
    assert state_of(tmp_path / "stopped", 6) == state_of(tmp_path / "unbroken", 6)


def test_a_signal_at_the_last_step_leaves_a_finished_run_and_0_requests(tmp_path: Path) -> None:
    config = small(1, tmp_path, *BRIEF, "steps=2", "checkpoint_every=2")
    assert run_training(config, lambda _: Asking(2)).stopped_by is None
    assert not (tmp_path / "requeue").exists()


def test_a_signal_heard_before_the_run_began_stops_it_at_step_0_and_the_next_start_goes_on(tmp_path: Path) -> None:
    config = small(1, tmp_path, *BRIEF, "steps=2", "checkpoint_every=2")
    with Signals():
        os.kill(os.getpid(), signal.SIGUSR1)
        assert run_training(config, lambda _: Silent())[1:] == (0, "SIGUSR1")
    assert (tmp_path / "requeue").exists()
    assert run_training(config, lambda _: Silent())[1:] == (2, None)


def test_2_more_signals_while_a_stopped_run_is_saved_cut_nothing_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Checkpoints.write

    def disturbed(self: Checkpoints, *arguments: Any) -> Any:
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        return plain(self, *arguments)

    monkeypatch.setattr(Checkpoints, "write", disturbed)
    config = small(1, tmp_path, *BRIEF, "steps=6", "checkpoint_every=6")
    assert run_training(config, lambda _: Asking(1)).step == 1
    assert (tmp_path / "requeue").exists()
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step_00000001"


def test_a_signal_in_the_validation_before_step_0_stops_the_run_when_that_is_done(tmp_path: Path) -> None:
    config = small(1, tmp_path, *BRIEF, "validate_every=4", "steps=4", "checkpoint_every=4")
    assert run_training(config, lambda _: Asking(0)).step == 0
    assert [line["step"] for line in log_of(tmp_path)] == [0]
    assert run_training(config, lambda _: Silent()).step == 4
    assert [line["step"] for line in log_of(tmp_path)] == [0, 1, 2, 3, 4, 4]


def test_a_start_that_fails_leaves_0_requests_behind(tmp_path: Path) -> None:
    run_training(small(1, tmp_path, *BRIEF, "steps=4", "checkpoint_every=4"), lambda _: Asking(1))
    assert (tmp_path / "requeue").exists()
    with pytest.raises(ValueError, match="another configuration: seed"):
        run_training(small(1, tmp_path, *BRIEF, "steps=4", "checkpoint_every=4", "seed=5"), lambda _: Silent())
    assert not (tmp_path / "requeue").exists()


def test_more_steps_are_refused_where_the_rate_falls_until_the_last_and_the_sentence_says_so(tmp_path: Path) -> None:
    falling = ("optimizer.lr_decay=linear", "checkpoint_every=4")
    run_training(small(1, tmp_path, *BRIEF, "steps=4", *falling), lambda _: Silent())
    with pytest.raises(ValueError, match=r"steps \(was 4, is 6: its rate falls until the last\); put it back"):
        run_training(small(1, tmp_path, *BRIEF, "steps=6", *falling), lambda _: Silent())
    with pytest.raises(ValueError, match=r"configuration: optimizer.lr_decay \(was linear, is none\); put it back"):
        run_training(small(1, tmp_path, *BRIEF, "steps=4", "checkpoint_every=4"), lambda _: Silent())


# Two processes.

TIMED = {"images_per_second", "tflops", "mfu", "data_wait", "memory"}
LONG = (
    *(*SMALL, "model.depth=1", "steps=40", "validate_every=20", "sample_every=0", "snapshot_every=0"),
    "checkpoint_every=40",
)


def signalled(*runs: tuple[str, int | None, list[tuple[int, str]]]) -> list[float]:
    """Runs in folders, each asked to stop at a step by signals to ranks; the seconds that they took to end."""
    keys = ("overrides", "at", "signals")
    wanted = [
        dict(zip(keys, (["+stage=1", *LONG, f"run_dir={folder}"], at, signals), strict=True))
        for folder, at, signals in runs
    ]
    return json.loads(run_script("signalled.py", wanted=wanted).splitlines()[-1])


def log_of(run_dir: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMED} for line in lines]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """<stopped> by SIGTERM to rank 1, <broken> three times and gone on with to its end, and <unbroken>."""
    root = tmp_path_factory.mktemp("asked")
    seconds = signalled(
        (f"{root}/stopped", 4, [(1, "SIGTERM")]),
        (f"{root}/broken", None, [(0, "SIGTERM"), (1, "SIGTERM")]),
        (f"{root}/broken", 10, [(0, "SIGUSR1")]),
        (f"{root}/broken", 24, [(1, "SIGTERM"), (0, "SIGUSR1")]),
        (f"{root}/broken", None, []),
        (f"{root}/unbroken", None, []),
    )
    return root, seconds


def test_sigterm_to_1_rank_of_2_ends_both_within_10_s_with_one_checkpoint_and_a_request(
    asked: tuple[Path, list[float]],
) -> None:
    root, seconds = asked
    assert all(seconds[i] < 10 for i in (0, 2, 3))
    wanted = json.loads((root / "stopped" / "requeue").read_text())
    assert 4 <= wanted["step"] < wanted["steps"] == 40
    assert wanted["signal"] == "SIGTERM"
    saved = list((root / "stopped" / "checkpoints").glob("step_*"))
    assert [folder.name for folder in saved] == [f"step_{wanted['step']:08d}"]


def test_a_run_stopped_3_times_by_either_signal_equals_an_unbroken_one_bit_for_bit(
    asked: tuple[Path, list[float]],
) -> None:
    root, _ = asked
    assert not (root / "broken" / "requeue").exists()
    assert log_of(root / "broken") == log_of(root / "unbroken")
    assert state_of(root / "broken", 40) == state_of(root / "unbroken", 40)


# Launched for real.


def command(launcher: list[str], run_dir: Path, *overrides: str) -> list[str]:
    return [
        *launcher,
        TRAIN,
        "+stage=1",
        *LONG,
        "steps=4000",
        "checkpoint_every=4000",
        f"run_dir={run_dir}",
        *overrides,
    ]


def told_to_stop(launcher: list[str], run_dir: Path, number: signal.Signals, *, early: bool) -> tuple[int, str]:
    """Launch a run and signal the launcher alone, once it hears or once there is a log: its code, and what it said."""
    with subprocess.Popen(command(launcher, run_dir), stdout=subprocess.PIPE, text=True) as process:
        while not hears(process.pid) if early else not (run_dir / "metrics.jsonl").exists():
            time.sleep(0.01)
        process.send_signal(number)
        said, _ = process.communicate(timeout=200)
    return process.returncode, said


TWO = [str(BIN / "torchrun"), "--nproc_per_node=2"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "number"),
    [
        (TWO, signal.SIGTERM),
        ([*TWO, "--signals-to-handle=SIGTERM,SIGINT,SIGUSR1"], signal.SIGUSR1),
        ([str(BIN / "accelerate"), "launch", "--multi_gpu", "--num_processes=2"], signal.SIGTERM),
    ],
    ids=["torchrun SIGTERM", "torchrun SIGUSR1", "accelerate SIGTERM"],
)
def test_2_ranks_save_when_their_launcher_is_told_to_stop_though_it_then_ends_with_1(
    tmp_path: Path, launcher: list[str], number: signal.Signals
) -> None:
    code, said = told_to_stop(launcher, tmp_path, number, early=False)
    wanted = json.loads((tmp_path / "requeue").read_text())
    assert code == 1
    assert f"stopped at step {wanted['step']} of 4000 ({number.name}): run the same command to go on" in said
    assert (tmp_path / "checkpoints" / "latest").read_text() == f"step_{wanted['step']:08d}"
    again = command(launcher, tmp_path, f"steps={wanted['step'] + 2}")
    assert (
        f"resumed at step {wanted['step']}" in subprocess.run(again, check=True, capture_output=True, text=True).stdout
    )
    assert not (tmp_path / "requeue").exists()


@pytest.mark.slow
def test_a_process_told_to_stop_while_it_still_imports_stops_at_step_0_and_ends_with_0(tmp_path: Path) -> None:
    code, said = told_to_stop([sys.executable], tmp_path, signal.SIGTERM, early=True)
    assert code == 0
    assert "stopped at step 0 of 4000 (SIGTERM)" in said
    assert json.loads((tmp_path / "requeue").read_text())["step"] == 0
