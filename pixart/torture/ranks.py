"""Runs on forked processes: imports are paid once, and each rank may be watched, starved or killed."""

import contextlib
import ctypes
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self

import torch

from pixart.build.training import run_training
from pixart.config import Config
from pixart.door import one_sentence
from pixart.torture.operations import Operation, operation, write_half
from pixart.torture.syscalls import answer, receive, watch_me
from pixart.training.processes.stopping import Signals

Verdict = Literal["go on", "kill", "kill halfway"] | int  # a number: the operation fails with that errno
Judge = Callable[[Operation], Verdict]
Prepare = Callable[[int], None]
REFUSED = 2  # the exit code of a run that said in one sentence why it ends
_PR_SET_PDEATHSIG = 1


def nothing(_: int) -> None:
    """No preparation."""


class Ended(NamedTuple):
    """How the ranks of a run ended."""

    codes: list[int]  # of each rank: 0, REFUSED, 1 for a traceback, minus the signal for one that was killed
    said: list[str]  # what each rank printed
    in_time: bool = True  # False: they had to be killed after their limit

    @property
    def sentence(self) -> str:
        """The first sentence with which a rank refused to go on, empty where none did."""
        lines = [line for said in self.said for line in said.splitlines() if line.startswith("error: ")]
        return lines[0].removeprefix("error: ") if lines else ""


class _Saying:
    """A display that prints what it is told."""

    def update(self, step: int, values: dict[str, float]) -> None: ...

    def say(self, message: str) -> None:
        print(message, flush=True)  # noqa: T201  a rank's output is a file

    def close(self) -> None: ...


def train(config: Config) -> None:
    """The run, with what it says printed."""
    run_training(config, lambda _: _Saying())


@dataclass
class Ranks:
    """The processes of one run; leaving the block kills what is left of them.

    Args:
        folder: for what the ranks print.
        prepare: called in each rank with its number before the run begins.
        root: watch what the ranks change beneath this folder; None watches nothing.
        task: what each rank does.
    """

    config: Config
    world_size: int
    folder: Path
    prepare: Prepare = nothing
    root: Path | None = None
    task: Callable[[Config], None] = train
    children: list[int] = field(default_factory=list)
    handles: list[int] = field(default_factory=list)  # file descriptors that tell when a rank has ended
    listeners: list[int] = field(default_factory=list)
    codes: dict[int, int] = field(default_factory=dict)
    started: float = 0.0  # when, by the clock that only goes forward

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.started = time.monotonic()
        port = _free_port()
        for rank in range(self.world_size):
            ours, theirs = socket.socketpair()
            with ours, theirs:
                child = os.fork()
                if not child:
                    _become(self, rank, port, theirs)
                self.children.append(child)
                self.handles.append(os.pidfd_open(child))
                with contextlib.suppress(OSError):  # it may have done so itself, or have ended
                    os.setpgid(child, child)
                if self.root is not None:
                    theirs.close()
                    self.listeners += socket.recv_fds(ours, 1, 1)[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.kill()
        for rank in range(self.world_size):
            self._reap(rank, wait=True)
        for descriptor in (*self.handles, *self.listeners):
            os.close(descriptor)

    def kill(self, rank: int | None = None, sent: signal.Signals = signal.SIGKILL) -> None:
        """Signal one rank alone, or all of them with all their children."""
        if rank is None:
            for child in self.children:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child, sent)
        elif rank not in self.codes:
            os.kill(self.children[rank], sent)

    def alive(self) -> bool:
        """Whether any rank still runs."""
        for rank in range(self.world_size):
            self._reap(rank, wait=False)
        return len(self.codes) < self.world_size

    def _reap(self, rank: int, *, wait: bool) -> None:
        if rank not in self.codes:
            child, status = os.waitpid(self.children[rank], 0 if wait else os.WNOHANG)
            if child:
                self.codes[rank] = os.waitstatus_to_exitcode(status)

    def end(self, limit: float, judge: Judge | None = None) -> Ended:
        """Wait until all ranks have ended, at most ``limit`` seconds; then they are killed.

        ``judge`` decides about every operation of a run that is watched.
        """
        poll, deadline = select.poll(), time.monotonic() + limit
        for descriptor in (*self.handles, *self.listeners):
            poll.register(descriptor, select.POLLIN)
        while self.alive() and time.monotonic() < deadline:
            for ready, event in poll.poll(100):
                if ready in self.listeners and event & select.POLLIN:
                    self._judge(ready, judge)
                else:
                    poll.unregister(ready)
        in_time = not self.alive()
        self.kill()
        for rank in range(self.world_size):
            self._reap(rank, wait=True)
        said = [self.file(rank).read_text(errors="replace") for rank in range(self.world_size)]
        return Ended([self.codes[rank] for rank in range(self.world_size)], said, in_time)

    def _judge(self, listener: int, judge: Judge | None) -> None:
        call = receive(listener)
        if call is None:
            return
        verdict: Verdict = "go on"
        with contextlib.suppress(OSError):  # the caller may have been killed while it was looked at
            assert self.root is not None
            found = operation(call, self.root)
            verdict = "go on" if found is None or judge is None else judge(found)
            if verdict == "kill halfway":
                write_half(call)
        if verdict in ("kill", "kill halfway"):
            self.kill()
        else:
            answer(listener, call, error=verdict if isinstance(verdict, int) else 0)

    def file(self, rank: int) -> Path:
        """What a rank prints."""
        return self.folder / f"rank_{rank}.txt"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _become(ranks: Ranks, rank: int, port: int, channel: socket.socket) -> None:
    """Be a rank, in a child that has just been forked; does not return."""
    code = 1
    try:
        os.setpgid(0, 0)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        out = os.open(ranks.file(rank), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        os.dup2(out, 1)
        os.dup2(out, 2)
        # Anew: what the parent had not printed yet is none of ours.
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        torch.set_num_threads(
            1
        )  # by the only thread: the first call in a fork makes its pool anew, and none may race it
        if ranks.world_size > 1:
            names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
            values = (rank, rank, ranks.world_size, ranks.world_size, "127.0.0.1", port)
            os.environ.update({name: str(value) for name, value in zip(names, values, strict=True)})
        with Signals():  # as the door does
            ranks.prepare(rank)
            if ranks.root is not None:
                watch_me(channel)
            ranks.task(ranks.config)
        code = 0
    except (ValueError, OSError) as error:  # as the doors do
        print(f"error: {one_sentence(error)}", flush=True)  # noqa: T201
        code = REFUSED
    finally:
        if sys.exc_info()[1] is not None:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
