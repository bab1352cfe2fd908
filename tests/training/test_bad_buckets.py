"""A bucket of which nothing can be read stops the run, and what it met is on the disk for the doctor."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from miniature import SMALL, Silent, composed
from PIL import Image

from pixart.build.examining import Extent, examine
from pixart.build.training import run_training
from pixart.config import Config, parse
from pixart.data.storage.indexing import build_index
from pixart.preparation.doctor_quarantine import met_by, put_away


def photographs(folder: Path, *, wide: bytes, silent: int | None = None) -> Path:
    """A tar of 12 square photographs, one of them without a caption, and one wide sample of these bytes."""
    folder.mkdir()
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for i in range(12):
            put(tar, f"{i:03d}", picture(i), (32, 32), caption="" if i == silent else "a red circle")
        put(tar, "wide", wide, (16, 48))
    build_index(folder, None, workers=1, checksums=True, told=lambda *_: None)
    return folder


def put(tar: tarfile.TarFile, key: str, image: bytes, size: tuple[int, int], caption: str = "a red circle") -> None:
    about = json.dumps({"height": size[0], "width": size[1], "caption": caption, "label": 0}).encode()
    for name, data in ((f"{key}.png", image), (f"{key}.json", about)):
        header = tarfile.TarInfo(name)
        header.size = len(data)
        tar.addfile(header, io.BytesIO(data))


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "png")
    return data.getvalue()


def configured(root: Path, run: Path, *more: str) -> Config:
    small = [one for one in SMALL if not one.startswith("data.num_samples")]
    overrides = [
        *("+stage=2", *small, "data=shards", f"data.root='{root}'", "data.buckets=[[32,32],[16,48]]"),
        *("data.validation_samples=0", "data.small_buckets=repeat", "sample_every=0", "snapshot_every=0"),
        *("steps=20", f"run_dir={run}", *more),
    ]
    return parse(composed(*overrides), Config)


def test_a_lone_bad_sample_is_written_down_and_under_its_quarantine_the_run_ends(tmp_path: Path) -> None:
    root = photographs(tmp_path / "data", wide=b"no image at all" * 9)
    with pytest.raises(
        ValueError, match=r"is wide, which is bad \(.*image file\)\), and there is no other .*quarantine"
    ):
        run_training(configured(root, tmp_path / "first"), lambda _: Silent())
    assert met_by(tmp_path / "first").keys() == {"wide"}
    put_away(tmp_path / "bad.json", met_by(tmp_path / "first"))
    without = (f"data.quarantine='{tmp_path / 'bad.json'}'", "steps=3")
    run_training(configured(root, tmp_path / "second", *without), lambda _: Silent())


def test_1_of_13_without_a_caption_stops_training_and_the_doctor_alike_before_step_0(tmp_path: Path) -> None:
    config = configured(photographs(tmp_path / "data", wide=picture(12), silent=7), tmp_path / "run")
    with pytest.raises(ValueError, match=r"^1 of 13 samples \(007\) have no caption.*data\.quarantine") as stopped:
        run_training(config, lambda _: Silent())
    assert not (tmp_path / "run" / "config.yaml").exists()
    assert str(stopped.value) in examine(config, Extent(samples=2, shards=1, processes=1)).all_problems
