"""The plan of a large data set, opened and asked for batches in a process of its own, whose memory is its alone."""

import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pixart.benchmark.alone import peak_mib, run_alone
from pixart.data.buckets import official_buckets
from pixart.data.planning.plan import Part, Plan

_RESOLUTION = 1024  # of the table of 40 buckets
_ASKED = 64  # batches, after the first
_COLUMNS = ("heights", "widths", "shards")


class Probe(NamedTuple):
    """What a fresh process measured."""

    open_seconds: float
    first_ms: float  # the first batch: what it needs is made for it
    batch_ms: float  # median of those that follow
    peak_mib: float  # of the whole process, all it imports and the columns it maps included


def write_columns(folder: Path, *, samples: int, shards: int, seed: int) -> None:
    """Sizes of ``samples`` images in ``shards`` files over all 40 buckets, most near the square one."""
    folder.mkdir(parents=True)
    buckets = np.array(official_buckets(_RESOLUTION))
    rng = np.random.default_rng(seed)
    share = np.exp(-3 * np.abs(np.log(buckets[:, 0] / buckets[:, 1])))
    chosen = buckets[rng.choice(len(buckets), samples, p=share / share.sum())]  # (samples, 2)
    sizes = chosen + rng.integers(0, 8, chosen.shape)
    np.save(folder / "heights.npy", sizes[:, 0].astype(np.int32))
    np.save(folder / "widths.npy", sizes[:, 1].astype(np.int32))
    np.save(folder / "shards.npy", (np.arange(samples) * shards // samples).astype(np.int32))


def probe(folder: Path, *, global_batch: int, k: int, order_cache: Path | None) -> Probe:
    """Open the plan of ``folder`` in a fresh process, and take batches from the ``k``-th on."""
    cache = "" if order_cache is None else str(order_cache)
    arguments = {"folder": str(folder), "global_batch": global_batch, "k": k, "order_cache": cache}
    return Probe(**run_alone(__name__, arguments))


def _measured(folder: str, global_batch: int, k: int, order_cache: str) -> Probe:
    columns: dict[str, Any] = {name: np.load(Path(folder) / f"{name}.npy", mmap_mode="r") for name in _COLUMNS}
    began = time.perf_counter()
    plan = Plan(
        [Part(**columns)],
        buckets=official_buckets(_RESOLUTION),
        global_batch=global_batch,
        seed=0,
        small_buckets="merge",
        distance="linear",
        streams=64,
        window=16,
        order_cache=Path(order_cache) if order_cache else None,
    )
    opened = time.perf_counter() - began
    first, *others = (_milliseconds(plan, k + i) for i in range(1 + _ASKED))
    return Probe(opened, first, float(np.median(others)), peak_mib())


def _milliseconds(plan: Plan, k: int) -> float:
    began = time.perf_counter()
    plan.batch(k)
    return 1000 * (time.perf_counter() - began)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_measured(**json.loads(sys.argv[1]))._asdict()))
