"""Worker processes and signals: what is sent to a whole job must not take from it the workers that it still needs."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process, resource_tracker

_TO_A_JOB = {signal.SIGTERM, signal.SIGUSR1}  # what a cluster sends to every process of a job


@contextmanager
def held_back(*, tracked: bool) -> Iterator[None]:
    """Processes and threads that are started here are born with these signals blocked, and keep them so.

    That is also true of the server that forks workers where CUDA is in use: nobody could ask it otherwise.

    Args:
        tracked: the processes share what multiprocessing's tracker looks after (all but plainly forked ones).
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TO_A_JOB)
    try:
        if tracked:
            resource_tracker.ensure_running()  # which leaves SIGTERM unblocked
            signal.pthread_sigmask(signal.SIG_BLOCK, _TO_A_JOB)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def heed_the_parent_alone(_worker: int) -> None:
    """In a worker that was born with signals held back: end when the parent says SIGTERM, and for nobody else.

    Torch's own handler would end the worker whoever sends it, and the parent would fail for want of its batches.
    Ctrl-C reaches the parent too, which then ends its workers.
    """
    parent = parent_process()
    assert parent is not None, "a worker has a parent"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_obey, args=(parent.pid,), daemon=True, name="obey the parent").start()


def _obey(parent: int | None) -> None:
    while True:
        if signal.sigwaitinfo(_TO_A_JOB).si_pid == parent:
            os._exit(0)
