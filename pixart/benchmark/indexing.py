"""How fast tars are indexed."""

import io
import time
from pathlib import Path

import numpy as np
from PIL import Image

from pixart.benchmark.timing import Spread
from pixart.data.storage.indexing import build_index
from pixart.data.storage.shards import Encoded, write_shards

_SHARD = 2000  # samples in a tar


def write_small(folder: Path, count: int) -> None:
    """Tars of ``count`` captioned samples with the smallest of images: what is left is the price of a row."""
    folder.mkdir(parents=True)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    about = {"height": 8, "width": 8}
    samples = (Encoded(f"{i:08d}", "jpg", buffer.getvalue(), (f"number {i}",), None, about) for i in range(count))
    write_shards(folder, samples, shard_size=_SHARD)


def index_rates(folder: Path, *, checksums: bool, rounds: int) -> tuple[Spread, Spread]:
    """Rows and megabytes a second of indexing the tars in ``folder`` by one process."""
    megabytes = sum(path.stat().st_size for path in folder.glob("*.tar")) / 1e6
    rows, seconds = 0, []
    for _ in range(rounds):
        began = time.perf_counter()
        rows = build_index(folder, checksums=checksums).rows
        seconds.append(time.perf_counter() - began)
    return Spread.of(rows / np.array(seconds)), Spread.of(megabytes / np.array(seconds))
