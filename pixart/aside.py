"""Writing so that at a path lies a whole file or folder, or what lay there before: for every floor, from the lowest."""

import glob
import hashlib
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

KEPT = 40  # letters of a name that stay in the name beside it: no file system takes more than 255 bytes


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A place beside ``path`` to write a file to; flushed and renamed to ``path`` if the block ends well.

    Raises ``ValueError`` before anything is written where ``path`` is a folder, a device or a pipe: a rename would put
    a file in its place.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is {kind_of(path)} and no file: give the path of a file")
    make_folder(path.parent)
    aside = _beside(path)
    try:
        yield aside
        flush(aside)
        aside.replace(path)
        flush(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file so that a reader sees the old one or the new one, never a part."""
    with written_aside(path) as aside:
        aside.write_text(text)


@contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """The same for a new folder, made empty.

    Raises ``ValueError`` if something lies at ``path`` already, or if another process is about to put something there.
    """
    refuse_taken(path, folder=True)
    make_folder(path.parent)
    aside = _beside(path)
    others = [other for other in path.parent.glob(f"{glob.escape(_stem(path))}.*.partial") if other != aside]
    if others:
        raise ValueError(
            f"out={path} is being written by another process: give another place, or delete {others[0]} if none is"
        )
    shutil.rmtree(aside, ignore_errors=True)  # of a process that had the number of this one
    aside.mkdir()
    try:
        yield aside
        for file in aside.rglob("*"):
            if not file.is_symlink():
                flush(file)
        refuse_taken(path, folder=True)  # of two that began in the same moment
        aside.replace(path)
        flush(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def refuse_unwritable(path: Path, *, key: str, inside: bool = False) -> None:
    """``ValueError`` naming ``key`` if nothing can be written beside ``path``, or ``inside`` it.

    A folder that is not there is not made: what is asked for may still be refused.
    """
    folder = path if inside else path.parent
    try:
        there = next(each for each in (folder, *folder.parents) if each.exists())
        with TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise ValueError(f"{key}={path} cannot be written ({error.strerror}): give another place") from error


def refuse_no_file(path: Path, *, key: str) -> None:
    """``ValueError`` naming ``key`` if no file can be written to ``path``; one that lies there may be replaced."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{key}={path} is {kind_of(path)} and no file: give the path of a file")
    refuse_unwritable(path, key=key)


def refuse_taken(path: Path, *, folder: bool) -> None:
    """``ValueError`` if something lies at ``path``, a link to nowhere too; an empty folder may become a full one."""
    if folder and path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
        return
    if os.path.lexists(path):
        new = "a new folder" if folder else "a new file"
        raise ValueError(f"out={path} exists already ({kind_of(path)}): give {new}, or delete what lies there")


def kind_of(path: Path) -> str:
    """What lies at ``path``, in words."""
    kinds = {"a link": path.is_symlink(), "a file": path.is_file(), "a folder": path.is_dir(), "a pipe": path.is_fifo()}
    return next((kind for kind, true in kinds.items() if true), "a device")


def make_folder(path: Path) -> None:
    """Make a folder and those above it, if need be, and see that the names of new ones are on the disk."""
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in new:
        flush(folder.parent)


def flush(path: Path) -> None:
    """See that a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path) -> Path:
    """A name beside ``path`` that says which process writes there; those of dead processes are cleared away."""
    stem = _stem(path)
    for left in path.parent.glob(f"{glob.escape(stem)}.*.partial"):
        number = left.name[len(stem) + 1 : -len(".partial")]
        if number.isdecimal() and _is_dead(int(number)):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    return path.with_name(f"{stem}.{os.getpid()}.partial")


def _stem(path: Path) -> str:
    name = path.name
    if len(name) > KEPT:  # and another may begin alike
        name = f"{name[:KEPT]}-{hashlib.blake2b(name.encode(errors='surrogateescape'), digest_size=4).hexdigest()}"
    return f".{name}.{re.sub(r'[^A-Za-z0-9_-]', '-', platform.node())[:KEPT]}"


def _is_dead(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):  # somebody else's, or no number of a process
        return False
    return False
