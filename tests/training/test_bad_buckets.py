"""A bucket of which nothing can be read stops the run, and what it met is on the disk for the doctor."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from miniature import SMALL, Silent, composed
from PIL import Image

from pixart.build.training import run_training
from pixart.config import Config, parse
from pixart.data.storage.indexing import build_index
from pixart.preparation.doctor_quarantine import met_by, put_away


def photographs(folder: Path, *, wide: bytes) -> Path:
    """A tar of 12 square photographs and one wide sample of these bytes."""
    folder.mkdir()
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for i in range(12):
            put(tar, f"{i:03d}", picture(i), (32, 32))
        put(tar, "wide", wide, (16, 48))
    build_index(folder, None, workers=1, checksums=True, told=lambda *_: None)
    return folder


def put(tar: tarfile.TarFile, key: str, image: bytes, size: tuple[int, int]) -> None:
    about = json.dumps({"height": size[0], "width": size[1], "caption": "a red circle"}).encode()
    for name, data in ((f"{key}.png", image), (f"{key}.txt", b"a red circle"), (f"{key}.json", about)):
        header = tarfile.TarInfo(name)
        header.size = len(data)
        tar.addfile(header, io.BytesIO(data))


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "png")
    return data.getvalue()


def test_a_lone_bad_sample_is_written_down_and_under_its_quarantine_the_run_ends(tmp_path: Path) -> None:
    root = photographs(tmp_path / "data", wide=b"no image at all" * 9)

    def run(name: str, *more: str) -> None:
        small = [one for one in SMALL if not one.startswith("data.num_samples")]
        overrides = [
            *("+stage=2", *small, "data=shards", f"data.root='{root}'", "data.buckets=[[32,32],[16,48]]"),
            *("data.validation_samples=0", "data.small_buckets=repeat", "sample_every=0", "snapshot_every=0"),
            *("steps=20", f"run_dir={tmp_path / name}", *more),
        ]
        run_training(parse(composed(*overrides), Config), lambda _: Silent())

    with pytest.raises(
        ValueError, match=r"is wide, which is bad \(.*image file\)\), and there is no other .*quarantine"
    ):
        run("first")
    assert met_by(tmp_path / "first").keys() == {"wide"}
    put_away(tmp_path / "bad.json", met_by(tmp_path / "first"))
    run("second", f"data.quarantine='{tmp_path / 'bad.json'}'", "steps=3")
