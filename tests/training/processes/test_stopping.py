"""Laws of the agreement to stop: one step for all, never after it, no deadlock; and of who hears a signal."""

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed import HashStore, PrefixStore

from pixart.training.processes.stopping import LOOK_EVERY, SIGNALS, Agreement, Signals, children_spared

PIPES: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}


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
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with Signals() as signals:
            with signals.undisturbed():
                os.kill(os.getpid(), signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_child_that_was_started_while_children_are_spared_outlives_3_signals_and_the_parent_hears_its_own() -> None:
    heard: list[int] = []
    before = {number: signal.signal(number, lambda told, _: heard.append(told)) for number in SIGNALS}
    try:
        with children_spared():
            child = subprocess.Popen([sys.executable, "-c", "print(flush=True); input()"], **PIPES)
            os.kill(os.getpid(), signal.SIGTERM)  # which another thread may hear at once
        assert heard == [signal.SIGTERM]
        assert child.stdout is not None
        child.stdout.readline()  # it runs
        for number in (*SIGNALS, signal.SIGINT):
            child.send_signal(number)
        assert child.communicate("\n", timeout=60)[0] == ""
        assert child.returncode == 0
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {*SIGNALS, signal.SIGINT}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
