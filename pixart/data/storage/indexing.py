"""Making an index: each tar is described once, in parallel, to a part of its own, and the parts are merged."""

import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pixart.aside import written_aside
from pixart.data.storage.files import tars_of
from pixart.data.storage.index_map import write_map
from pixart.data.storage.index_merge import merge
from pixart.data.storage.index_table import (
    INDEX_NAME,
    INDEX_VERSION,
    MAP_NAME,
    Fetched,
    Part,
    Shard,
    Tar,
    make_part,
    noted,
)
from pixart.data.storage.locks import lock

SKIPPED_NAME = "index.skipped.tsv"
PARTS_NAME = ".index"
_BYTES = 2**28  # of tars for each process beside the first: it takes seconds to start, and as long to read these

Told = Callable[[int, int], None]


class Indexed(NamedTuple):
    """What a pass over the tars found."""

    rows: int
    shards: int
    skipped: dict[str, int]  # samples that are not in the index, by the reason
    first_skipped: dict[str, str]  # the first of each reason; all are in index.skipped.tsv


def silent(done: int, of: int) -> None:
    """Tell nobody."""


def build_index(
    root: Path,
    out: Path | None = None,
    *,
    workers: int = 1,
    checksums: bool = True,
    stamps: dict[str, Any] | None = None,
    told: Told = silent,
) -> Indexed:
    """Write the index of all ``*.tar`` in ``root`` to ``root`` or to ``out``, in place of one that may be there.

    The tars stay as they are; those of img2dataset are of this kind. A sample that cannot be used is left out, and
    recorded with the reason. At most
    ``workers`` processes describe the tars, as many as pay; without ``checksums`` they read headers and small
    members only. What a killed run had described is not described again. ``stamps`` None keeps those of the present
    index. ``told`` is called with how many tars are done, and how many there are. Raises ``ValueError`` where there is
    no tar, one is truncated or no file, nothing can be used, or another process indexes ``out``.
    """
    found = tars_of(root)
    if not found:
        below = tars_below(root)
        hint = f" itself, but {len(below)} in folders below, such as {below[0]}: give one of those" if below else ""
        raise ValueError(f"{root} holds no .tar file{hint or ': give a folder of WebDataset tars'}")
    return index_tars(
        [Tar(name, stat.st_size, str(stat.st_mtime_ns)) for name, stat in found.items()],
        partial(_local, root),
        out or root,
        root=None if out is None or out.resolve() == root.resolve() else str(root.resolve()),
        workers=workers,
        checksums=checksums,
        stamps=stamps,
        told=told,
    )


def tars_below(root: Path) -> list[str]:
    """The ``*.tar`` one folder below ``root``, which its index leaves alone."""
    return sorted(str(path.relative_to(root)) for path in root.glob("[!.]*/*.tar"))


def index_tars(
    tars: Sequence[Tar],
    fetched: Fetched,
    out: Path,
    *,
    root: str | None,
    workers: int,
    checksums: bool,
    stamps: dict[str, Any] | None,
    told: Told,
) -> Indexed:
    """``build_index`` of ``tars`` wherever they are, each read where ``fetched`` puts it.

    ``root`` is the folder or address where they will be looked for; None for ``out`` itself.
    """
    folder = out / PARTS_NAME
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        parts = _described(tars, partial(make_part, folder=folder, fetched=fetched, checksums=checksums), workers, told)
        if not any(part.rows for part in parts):
            raise _none_usable(root or str(out), parts)
        about = {
            "version": INDEX_VERSION,
            "shards": [Shard(part.tar.name, part.size, part.sha256) for part in parts],
            "checksums": checksums,
            "stamps": _present_stamps(out / INDEX_NAME) if stamps is None else stamps,
        }
        names = [tar.name for tar in tars]
        merge([folder / f"{name}.parquet" for name in names], names, about, root, out / INDEX_NAME)
        write_map(out / INDEX_NAME, out / MAP_NAME)
        indexed = _recorded(parts, out / SKIPPED_NAME)
        rmtree(folder)
    return indexed


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the folder ``out``, whose parts two processes would take from under each other."""
    descriptor = os.open(out, os.O_RDONLY)
    try:
        free = True  # of a file system without locks
        with suppress(OSError):
            free = lock(descriptor, LOCK_EX)
        if not free:
            raise ValueError(f"{out}: another process indexes this folder, wait for it or end it")
        yield
    finally:
        os.close(descriptor)


def _none_usable(place: str, parts: Sequence[Part]) -> ValueError:
    skipped = Counter(why for part in parts for _, why in part.skipped)
    first = {why: f"{part.tar.name}: {key}" for part in reversed(parts) for key, why in reversed(part.skipped)}
    counts = [f"{count} x {why} (as {first[why]})" for why, count in skipped.most_common()]
    reasons = ", ".join(counts) or "they are empty"
    return ValueError(f"{place}: none of the {skipped.total()} samples in its tars can be used, {reasons}")


@contextmanager
def _local(root: Path, tar: Tar) -> Iterator[Path]:
    yield root / tar.name


def _described(tars: Sequence[Tar], describe: "partial[Part]", workers: int, told: Told) -> list[Part]:
    parts = []
    total = sum(_BYTES if tar.size is None else tar.size for tar in tars)
    with _mapping(min(workers, len(tars), 1 + total // _BYTES)) as mapped:
        for part in mapped(describe, tars):
            parts.append(part)
            told(len(parts), len(tars))
    return parts


@contextmanager
def _mapping(workers: int) -> Iterator[Callable[..., Iterator[Part]]]:
    """The function ``map``, over ``workers`` processes."""
    if workers == 1:
        yield map
        return
    # Not forked: the threads of this process may hold locks.
    executor = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield executor.map
    finally:
        executor.shutdown(cancel_futures=True)  # where one has failed the others need not be begun


def _present_stamps(path: Path) -> dict[str, Any]:
    try:
        return noted(pq.read_metadata(path).metadata).get("stamps", {})
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return {}


def _recorded(parts: Sequence[Part], path: Path) -> Indexed:
    """The account; every skipped sample is written to ``path``, which is taken away where there is none."""
    skipped = Counter[str]()
    first = dict[str, str]()
    with written_aside(path) as new, new.open("w", encoding="utf-8") as record:
        for part in parts:
            for key, why in part.skipped:
                name = f"{part.tar.name}: {key}"
                skipped[why] += 1
                first.setdefault(why, name)
                record.write(f"{why}\t{json.dumps(name)}\n")
    if not skipped:
        path.unlink()
    return Indexed(sum(part.rows for part in parts), len(parts), dict(skipped), first)
