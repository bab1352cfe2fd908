"""Writing so that at a path lies a whole file or folder, or what lay there before."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A place beside ``path`` to write a file to; flushed and renamed to ``path`` if the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield aside
        flush(aside)
        aside.replace(path)
        flush(path.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """The same for a new folder, made empty; ``ValueError`` if something lies at ``path`` already."""
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise ValueError(f"out={path} exists already: give a new folder, or delete that one")
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    aside.mkdir(parents=True)
    try:
        yield aside
        for file in aside.rglob("*"):
            if not file.is_symlink():
                flush(file)
        aside.replace(path)
        flush(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def flush(path: Path) -> None:
    """See that a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
