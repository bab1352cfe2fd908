"""Locks of open files, waited for in a way that can be stopped and comes to an end."""

import os
from fcntl import LOCK_NB, flock
from pathlib import Path
from threading import Event

from pixart.data.storage.remote import Stopped

_LOOK = 0.02  # seconds between looks


def lock(descriptor: int, kind: int) -> bool:
    """Take a lock (LOCK_SH or LOCK_EX) if it is free, and say whether it was."""
    try:
        flock(descriptor, kind | LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at(descriptor: int, path: Path) -> bool:
    """Whether the file that is open still lies at ``path``."""
    here = os.fstat(descriptor)
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def wait(stop: Event) -> None:
    """A moment; ``Stopped`` where ``stop`` is set."""
    if stop.wait(_LOOK):
        raise Stopped
