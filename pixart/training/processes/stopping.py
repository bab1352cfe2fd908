"""Stopping when asked: a signal to any process ends the run before a step that all of them agree on."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

from pixart.aside import write_atomically

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
LOOK_EVERY = 0.2  # seconds between two looks into the store, at least
_ASKED, _SEEN, _LAST = "asked", "seen", "last"


class Signals:
    """Hears SIGTERM and SIGUSR1 inside its block, where nothing else comes of them; then what was there is put back.

    Only a main thread can hear: in another one this does nothing. An inner block knows what an outer one has heard.
    """

    def __init__(self) -> None:
        self.heard: str | None = None  # the name of the first
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            outer = getattr(signal.getsignal(SIGNALS[0]), "__self__", None)
            self._before = {number: signal.signal(number, self._hear) for number in SIGNALS}
            if isinstance(outer, Signals):
                self.heard = self.heard or outer.heard
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: set by other code than Python's
        self._before = {}

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        self.heard = self.heard or signal.Signals(number).name

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Here Ctrl-C interrupts nothing either."""
        if not self._before:
            yield
            return
        before = signal.signal(signal.SIGINT, self._hear)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before or signal.SIG_DFL)


@contextmanager
def children_spared() -> Iterator[None]:
    """Processes that are started here hear no signal to stop, nor Ctrl-C; this one hears it by the end of the block.

    Schedulers and terminals signal all processes of a job: of a compiler that dies of it the run would die too, with
    a traceback in place of a checkpoint.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*SIGNALS, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Agreement:
    """The step before which all processes of a run stop, agreed through a store while the steps go on.

    1. A process that was asked to stop says so in the store.
    2. Every process looks there before a step, though not more often than every ``LOOK_EVERY`` seconds. One that finds
       it waits for its device, says that it has seen it, and from then on waits and looks before every step.
    3. Once all have seen it, rank 0 says, before it makes step s, that all stop before step s + 1.

    Gradients meet in every step: a process whose device has finished step s knows that rank 0 had begun it, and so had
    spoken. It waits and looks before step s + 1, finds the word there and stops. None can be further: to be before
    step s + 2 it would have had to wait and look before step s + 1. Nothing here is a collective, and a step in which
    nobody was asked costs one question to the store at most.

    Args:
        store: with keys of its own for this run; None for a process alone, which stops as soon as it is asked.
        settle: waits until the device has done all that it was given.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        store: "Store | None",
        *,
        rank: int,
        world_size: int,
        settle: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ):
        self.store = store
        self.rank = rank
        self.world_size = world_size
        self._settle = settle
        self._clock = clock
        self._looked = float("-inf")
        self._seen = False

    def reached(self, step: int, heard: str | None) -> str | None:
        """Called with the number of steps made, before each next one: why all stop now, None to go on.

        Args:
            heard: the name of the signal that this process heard, None for none.
        """
        if self.store is None:
            return heard
        if not self._seen and not self._finds(self.store, heard):
            return None
        self._settle()
        if not self._seen:
            self._seen = True
            self.store.add(_SEEN, 1)
        return self._stopped(self.store, step)

    def _finds(self, store: "Store", heard: str | None) -> bool:
        if heard is not None:
            store.compare_set(_ASKED, "", heard)  # the first to say it gives the reason
            return True
        now = self._clock()
        if now - self._looked < LOOK_EVERY:
            return False
        self._looked = now
        return store.check([_ASKED])

    def _stopped(self, store: "Store", step: int) -> str | None:
        if self.rank == 0 and store.add(_SEEN, 0) == self.world_size:
            # Unlike set, compare_set returns only when the store has it; said again it changes nothing.
            store.compare_set(_LAST, "", str(step + 1))
        if not store.check([_LAST]):
            return None
        last = int(store.get(_LAST))
        assert step <= last, f"step {step} was begun after the last one, {last}"
        return store.get(_ASKED).decode() if step == last else None


class Stopping:
    """A run that stops when asked, and says in its folder that it wants to go on.

    Args:
        run_dir: where ``requeue`` is written.
    """

    def __init__(self, run_dir: Path, signals: Signals, agreement: Agreement):
        self.run_dir = run_dir
        self.signals = signals
        self.agreement = agreement
        self.reason: str | None = None  # the signal that the run was stopped by

    def due(self, step: int) -> bool:
        """Whether all processes stop now, ``step`` steps made; asked of every process before each next step."""
        self.reason = self.agreement.reached(step, self.signals.heard)
        return self.reason is not None

    def ask_to_go_on(self, *, step: int, steps: int) -> None:
        """Write ``requeue``, once all that is needed to go on is safe."""
        asked = {"step": step, "steps": steps, "signal": self.reason, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        write_atomically(requeue_file(self.run_dir), json.dumps(asked) + "\n")


def requeue_file(run_dir: Path) -> Path:
    """There while a stopped run waits to be started again, and at no other time."""
    return run_dir / "requeue"
