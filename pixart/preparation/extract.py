"""From shards of images to shards of features: each image and caption encoded once, in as many processes as there are.

Shard i of the source becomes ``00000i.tar`` of the result, whole or not at all, so a killed extraction goes on with the
shards that are missing. A source without shards, which draws its images, is cut into tars of ``DRAWN`` samples.
Processes need not know of each other: each takes its share of the shards, and whoever sees the last one appear writes
the index.
"""

import fcntl
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pixart.data.source import Source
from pixart.data.storage.index import INDEX_NAME, read_index
from pixart.data.storage.indexing import build_index
from pixart.preparation.encode import Encoders, Prepared, encoded, prepared

_WORK = ".extract"  # what the processes leave for each other
_JOB = "job.json"
DRAWN = 2048  # samples in a tar, where the source has no shards of its own

Told = Callable[[int, int], None]


class Share(NamedTuple):
    """Which of the shards a process takes: every ``world_size``-th from the ``rank``-th on."""

    rank: int
    world_size: int


class Extracted(NamedTuple):
    """What came of an extraction, over all processes so far."""

    samples: int
    shards: int
    missing: int  # shards that other processes are still at
    skipped: dict[str, int]  # samples without features, by the reason
    first_skipped: dict[str, str]


def extract(source: Source, out: Path, *, encoders: Encoders, workers: int, share: Share, told: Told) -> Extracted:
    """Write the features of ``source`` to the folder ``out``, or what is missing of them.

    ``workers`` processes read and fit images ahead of the encoders. A sample that cannot be read, or that has no
    caption where text is encoded, is left out and counted. ``told`` is called with how many of this process' shards are
    done, and how many they are. Raises ``ValueError`` where ``out`` holds other features, or the source is features.
    """
    if source.stamps is not None:
        raise ValueError("data.root holds features already: give the shards with the images that they were made of")
    stamps = encoders.stamps()
    _claim(out, {"source": source.fingerprint, "stamps": stamps})
    starts = _starts(source)
    mine = range(share.rank, len(starts) - 1, share.world_size)
    for done, shard in enumerate(mine):
        told(done, len(mine))
        if not _tar(out, shard).exists():
            rows = np.arange(starts[shard], starts[shard + 1])
            _write_shard(out, shard, prepared(source, rows, encoders, workers=workers), encoders)
    told(len(mine), len(mine))
    return _finished(out, len(starts) - 1, stamps)


def _starts(source: Source) -> NDArray[np.intp]:
    """The first row of each shard, and the end."""
    shards = np.arange(len(source)) // DRAWN if source.shards is None else source.shards
    return np.flatnonzero(np.diff(shards, prepend=-1, append=-1))


def _claim(out: Path, job: dict[str, Any]) -> None:
    """See that ``out`` is for this very job: an index or a tar of another one would be taken for finished work."""
    from pixart.aside import written_aside  # seconds, with the formats around it

    file = out / _WORK / _JOB
    with _locked(out):
        if not file.exists():
            if any(out.glob("*.tar")):
                raise ValueError(f"out={out} holds tars that are no features of these data: give a new folder")
            with written_aside(file) as aside:
                aside.write_text(json.dumps(job))
        elif json.loads(file.read_text()) != job:
            raise ValueError(
                f"out={out} holds features of other data, encoders or buckets: give a new folder, or delete that one"
            )


def _write_shard(out: Path, shard: int, samples: Iterator[Prepared | tuple[str, str]], encoders: Encoders) -> None:
    from webdataset import TarWriter

    from pixart.aside import written_aside

    skipped: dict[str, str] = {}
    count = 0

    def usable() -> Iterator[Prepared]:
        for sample in samples:
            if isinstance(sample, Prepared):
                yield sample
            else:
                skipped.update([sample])

    with written_aside(_tar(out, shard)) as aside:
        with TarWriter(str(aside), encoder=False, mtime=0) as writer:
            for members in encoded(usable(), encoders):
                writer.write(members)
                count += 1
        account = {"samples": count, "skipped": skipped}
        with written_aside(out / _WORK / f"{shard:06d}.json") as note:  # before the tar appears: no tar without it
            note.write_text(json.dumps(account))


def _finished(out: Path, shards: int, stamps: dict[str, Any]) -> Extracted:
    """The account, and the index once every shard is there."""
    there = [shard for shard in range(shards) if _tar(out, shard).exists()]
    accounts = [json.loads((out / _WORK / f"{shard:06d}.json").read_text()) for shard in there]
    missing = shards - len(there)
    if missing == 0:
        with _locked(out):
            if not _indexed(out, stamps):
                build_index(out, stamps=stamps)
    skipped = [(key, why) for account in accounts for key, why in account["skipped"].items()]
    return Extracted(
        samples=sum(account["samples"] for account in accounts),
        shards=len(there),
        missing=missing,
        skipped=dict(Counter(why for _, why in skipped)),
        first_skipped={why: key for key, why in reversed(skipped)},
    )


def _indexed(out: Path, stamps: dict[str, Any]) -> bool:
    return (out / INDEX_NAME).exists() and read_index(out).stamps == stamps


def _tar(out: Path, shard: int) -> Path:
    return out / f"{shard:06d}.tar"


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """One process at a time."""
    (out / _WORK).mkdir(parents=True, exist_ok=True)
    with (out / _WORK / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
