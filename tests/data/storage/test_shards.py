"""Laws of the tars and of their index: what is written is read, by offset, and damage is one sentence."""

import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixart.data.buckets import Bucket
from pixart.data.dataset import Examples
from pixart.data.features import pack
from pixart.data.loading import loader
from pixart.data.planning.plan import Part, Plan
from pixart.data.storage.index import build_index, read_index
from pixart.data.storage.shards import Encoded, Shards, write_shards


def png(row: int, height: int = 4, width: int = 6) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (row, 0, 0)).save(buffer, format="PNG")
    return buffer.getvalue()


def encoded(row: int, captions: tuple[str, ...] = ("a caption",), label: int | None = None) -> Encoded:
    return Encoded(f"{row:03d}", "png", png(row, height=row + 1), captions, label, {"height": row + 1, "width": 6})


def tar(path: Path, members: dict[str, bytes]) -> None:
    """A tar as other programs write it."""
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Seven samples in three tars."""
    write_shards(tmp_path, (encoded(row, (f"caption {row}", "é"), row % 3) for row in range(7)), shard_size=3)
    build_index(tmp_path)
    return tmp_path


def test_seven_samples_in_shards_of_three_are_three_tars_and_read_back_as_written(root: Path):
    assert sorted(path.name for path in root.glob("*.tar")) == ["000000.tar", "000001.tar", "000002.tar"]
    shards = Shards(root)
    assert len(shards) == 7
    assert shards.heights.tolist() == list(range(1, 8))
    assert shards.widths.tolist() == [6] * 7
    assert shards.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    for row in (6, 0, 3):
        sample = shards.read(row)
        assert sample.key == shards.key(row) == f"{row:03d}"
        assert sample.captions == (f"caption {row}", "é")
        assert sample.label == row % 3
        assert sample.image.shape == (row + 1, 6, 3)
        assert (sample.image == [row, 0, 0]).all()


def test_the_same_samples_make_the_same_bytes(root: Path, tmp_path_factory: pytest.TempPathFactory):
    other = tmp_path_factory.mktemp("other")
    write_shards(other, (encoded(row, (f"caption {row}", "é"), row % 3) for row in range(7)), shard_size=3)
    build_index(other)
    for path in root.glob("*.tar"):
        assert (other / path.name).read_bytes() == path.read_bytes()
    assert read_index(root).fingerprint == read_index(other).fingerprint


def test_two_forked_workers_read_and_resize_what_this_process_reads(root: Path):
    source = Shards(root)
    buckets = [Bucket(8, 8)]
    settings = {
        "buckets": buckets,
        "global_batch": 6,
        "seed": 0,
        "small_buckets": "refuse",
        "distance": "log",
        "streams": 1,
        "window": 1,
    }
    examples = Examples(
        source,
        Plan([Part(source.heights, source.widths)], **settings),
        seed=0,
        latent_channels=1,
        latent_stride=1,
        posterior_noise=False,
        tokenize=None,
        max_tokens=0,
        caption_choice="first",
        caption_drop=0.0,
        null_label=3,
        label_drop=0.0,
        size_conditioning=True,
        aspect_ratio="exact",
        flip=False,
        stratified=True,
    )
    source.read(0)  # a file that is open when the workers are forked
    runs = []
    for workers in (0, 2):
        steps = loader(examples, range(3), micro_batch=2, world_size=1, rank=0, num_workers=workers, pin_memory=False)
        runs.append([batch for step in steps for batch in step.batches])
    assert len(runs[0]) == 9
    for here, there in zip(*runs, strict=True):
        assert here.keys == there.keys
        assert here.images.shape == (2, 3, 8, 8)
        assert torch.equal(here.images, there.images)
        assert here.size[:, 0].tolist() == [int(key) + 1 for key in here.keys]


def test_a_row_outside_is_an_index_error(root: Path):
    for row in (-1, 7):
        with pytest.raises(IndexError):
            Shards(root).read(row)


def test_shards_that_were_read_can_be_pickled_for_another_process(root: Path):
    shards = Shards(root)
    shards.read(0)
    copy = pickle.loads(pickle.dumps(shards))
    np.testing.assert_array_equal(copy.read(5).image, shards.read(5).image)


def test_no_more_files_are_kept_open_than_allowed(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pixart.data.storage.files._OPEN_FILES", 2)
    shards = Shards(root)
    for row in (0, 3, 6, 0):
        assert shards.read(row).image.shape[0] == row + 1
    assert len(shards._files._opened) == 2


def test_captioned_shards_have_no_labels(tmp_path: Path):
    write_shards(tmp_path, [encoded(0)], shard_size=9)
    build_index(tmp_path)
    shards = Shards(tmp_path)
    assert shards.labels is None
    assert shards.read(0)[2:] == (("a caption",), None, None)


def test_features_are_read_with_or_without_an_image(tmp_path: Path):
    moments, states = np.ones((8, 2, 3), np.float16), np.eye(4, 5, dtype=np.float32)
    packed = pack(moments, [states], dtype="int8")
    about = json.dumps({"height": 16, "width": 24}).encode()
    tar(tmp_path / "a.tar", {"0.features.safetensors": packed, "0.json": about, "0.txt": b"a",
                             "1.png": png(1), "1.features.safetensors": packed, "1.txt": b"b"})  # fmt: skip
    build_index(tmp_path, stamps={"autoencoder": "x"})
    shards = Shards(tmp_path)
    assert shards.stamps == {"autoencoder": "x"}
    assert (shards.heights.tolist(), shards.widths.tolist()) == ([16, 4], [24, 6])
    assert [shards.read(row).image is None for row in (0, 1)] == [True, False]
    for row in (0, 1):
        np.testing.assert_array_equal(shards.read(row).features.moments, moments)


def test_the_columns_of_a_source_are_those_of_the_index(root: Path):
    shards, index = Shards(root), read_index(root)
    assert shards.shards.tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert shards.digests.tolist() == index.digests.tolist()
    assert (shards.fingerprint, shards.stamps) == (index.fingerprint, None)
    assert shards.keys.to_pylist() == [f"{row:03d}" for row in range(7)]


def test_a_pickled_source_opens_its_index_anew_and_carries_0_rows(root: Path):
    assert len(pickle.dumps(Shards(root))) < 1000
