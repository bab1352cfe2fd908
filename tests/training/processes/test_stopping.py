"""Laws of stopping: one step for all, never after it, no deadlock; saved, said so, and gone on with bit for bit."""

import json
import os
import random
import signal
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from miniature import SMALL, Silent, small
from scripts import run_script
from torch.distributed import HashStore, PrefixStore
from torch.utils._pytree import keystr, tree_flatten_with_path

from pixart.build.training import run_training
from pixart.training.checkpoints.checkpoint import Checkpoints
from pixart.training.checkpoints.resumption import read_checkpoint
from pixart.training.processes.stopping import LOOK_EVERY, SIGNALS, Agreement, Signals


class Turns:
    """Threads that run one at a time, in an order drawn from a seed: wherever one waits, another may go on."""

    def __init__(self, seed: int):
        self.draw = random.Random(seed)
        self.waiting: dict[int, Callable[[], bool]] = {}
        self.changed = threading.Condition()
        self.running: int | None = None
        self.failed: list[AssertionError] = []

    def wait(self, rank: int, until: Callable[[], bool] = lambda: True) -> None:
        """Give the turn away, and go on when it comes back, which it does not before ``until`` holds."""
        with self.changed:
            self.waiting[rank], self.running = until, None
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.running == rank)

    def run(self, tasks: list[Callable[[], None]]) -> None:
        def task(rank: int) -> None:
            self.wait(rank)
            try:
                tasks[rank]()
            except AssertionError as error:
                self.failed.append(error)
            with self.changed:
                self.running = None
                self.changed.notify_all()

        threads = [threading.Thread(target=task, args=(rank,), daemon=True) for rank in range(len(tasks))]
        for thread in threads:
            thread.start()
        with self.changed:
            self.changed.wait_for(lambda: len(self.waiting) == len(tasks))
            while self.waiting and not self.failed:
                ready = [rank for rank in sorted(self.waiting) if self.waiting[rank]()]
                assert ready, f"deadlock: ranks {sorted(self.waiting)} wait for each other"
                self.running = self.draw.choice(ready)
                del self.waiting[self.running]
                self.changed.notify_all()
                self.changed.wait_for(lambda: self.running is None)
        if self.failed:
            raise self.failed[0]


class Simulation:
    """Ranks whose gradients meet in every step, and that are otherwise as fast as the turns have it.

    Args:
        ahead: for each rank, how many steps its host may have given to the device that this has not done; 0 for a CPU.
        asked: (rank, step) -> the rank hears a signal when it has given that many steps.
    """

    def __init__(self, *, ahead: list[int], steps: int, asked: set[tuple[int, int]], seed: int):
        self.ahead, self.steps, self.asked = ahead, steps, asked
        self.given = [0] * len(ahead)
        self.stopped: dict[int, str] = {}
        self.turns = Turns(seed)
        self.store = PrefixStore("a run's", HashStore())
        self.turns.run([lambda rank=rank: self._fit(rank) for rank in range(len(ahead))])

    def _done(self, steps: int) -> Callable[[], bool]:
        """Whether devices have done so many: no device finishes a step that some host has not given to its own."""
        return lambda: min(self.given) >= steps

    def _fit(self, rank: int) -> None:
        agreement = Agreement(
            Waiting(self.store, lambda: self.turns.wait(rank)),  # type: ignore[arg-type]
            rank=rank,
            world_size=len(self.ahead),
            settle=lambda: self.turns.wait(rank, self._done(self.given[rank])),
            clock=self._clock(rank),
        )
        heard = None
        for step in range(self.steps):
            heard = heard or ("SIGTERM" if (rank, step) in self.asked else None)
            if why := agreement.reached(step, heard):
                self.stopped[rank] = why
                return
            self.turns.wait(rank)
            self.given[rank] += 1
            self.turns.wait(rank, self._done(self.given[rank] - self.ahead[rank]))

    def _clock(self, rank: int) -> Callable[[], float]:
        ticks = count()
        return lambda: (next(ticks) + rank / 7) * LOOK_EVERY * 0.6


class Waiting:
    """A store that gives the turn away before each question."""

    def __init__(self, store: PrefixStore, turn: Callable[[], None]):
        self.store, self.turn = store, turn

    def __getattr__(self, name: str) -> Callable[..., object]:
        self.turn()
        return getattr(self.store, name)


def simulations() -> st.SearchStrategy[dict]:
    return st.builds(
        dict,
        ahead=st.lists(st.integers(0, 3), min_size=2, max_size=4),
        steps=st.integers(1, 14),
        asked=st.sets(st.tuples(st.integers(0, 3), st.integers(0, 14)), min_size=1, max_size=4),
        seed=st.integers(0, 2**32),
    )


@given(simulations())
@settings(max_examples=250, deadline=None)
def test_ranks_at_any_speeds_all_stop_before_one_step_or_all_make_the_last_and_0_wait_forever(drawn: dict) -> None:
    run = Simulation(**drawn)
    assert len(set(run.given)) == 1, run.given
    assert len(run.stopped) in (0, len(run.ahead))
    assert run.given[0] == run.steps or run.stopped
    first = min((step for rank, step in run.asked if rank < len(run.ahead)), default=run.steps)
    assert run.given[0] >= min(first, run.steps)


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("step", [0, 1, 50])
def test_a_signal_to_any_of_3_ranks_stops_all_within_6_steps(rank: int, step: int) -> None:
    for seed in range(10):
        run = Simulation(ahead=[1, 0, 1], steps=100, asked={(rank, step)}, seed=seed)
        assert run.stopped == dict.fromkeys(range(3), "SIGTERM")
        assert step < run.given[0] <= step + 6


def test_a_signal_before_the_last_of_9_steps_lets_the_run_finish_it() -> None:
    for seed in range(10):
        run = Simulation(ahead=[0, 0], steps=9, asked={(0, 8), (1, 8)}, seed=seed)
        assert (run.given, run.stopped) == ([9, 9], {})


# Signals.


def test_signals_are_heard_inside_the_block_alone_and_both_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with Signals() as outer:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert outer.heard == "SIGUSR1"
        with Signals() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
            assert inner.heard == "SIGUSR1", "what the outer one heard, and the first counts"
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_thread_that_is_not_the_main_one_changes_0_handlers() -> None:
    seen: list[object] = []

    def body() -> None:
        with Signals() as signals, signals.undisturbed():
            seen.extend(map(signal.getsignal, (*SIGNALS, signal.SIGINT)))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == list(map(signal.getsignal, (*SIGNALS, signal.SIGINT)))


def test_ctrl_c_interrupts_before_and_after_the_undisturbed_part_and_not_in_it() -> None:
    with Signals() as signals:
        with signals.undisturbed():
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


# One process.


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


# Two processes.

TIMED = {"images_per_second", "data_wait", "memory"}
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
