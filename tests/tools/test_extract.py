"""The door: from shards to features, in worker processes, with the keys of the run that will read them."""

import io
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixart.data.embedded.shapes import Shapes
from pixart.data.storage.indexing import build_index
from pixart.data.storage.shards import Encoded, Shards, write_shards

SIZES = ((32, 48), (40, 40), (48, 32))  # as they are planned
ROOT = Path(__file__).resolve().parents[2]


def door(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """The command in this process."""
    monkeypatch.setattr(sys, "argv", ["extract.py", "+stage=3", "scale=tiny", "data=shards", *arguments])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # the door sets it; here it must not outlive the test
    monkeypatch.setattr(sys, "path", [*sys.path])
    runpy.run_path(str(ROOT / "tools" / "extract.py"), run_name="__main__")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    buffer = io.BytesIO()
    Image.fromarray(np.full((40, 60, 3), 7, np.uint8)).save(buffer, "PNG")
    about = {"height": 40, "width": 60}
    samples = (Encoded(str(i), "png", buffer.getvalue(), ("a circle",), None, about) for i in range(3))
    write_shards(folder, samples, shard_size=2)
    build_index(folder)
    return folder


def test_it_stores_features_of_the_runs_buckets_and_says_how_to_train_on_them(monkeypatch, capsys, tmp_path, root):
    out = tmp_path / "features"
    door(monkeypatch, f"data.root={root}", "data.workers=1", f"out={out}", "states=bfloat16", "batch=2")
    shown = capsys.readouterr().out
    assert f"3 samples in 2 shards: {out}" in shown
    assert f"train with data.root={out}" in shown
    features = Shards(out).read(0).features
    assert features is not None
    assert features.moments is not None
    assert features.moments.shape == (16, 4, 6)
    assert features.states[0].dtype == np.uint16


def test_the_embedded_data_set_is_stored_as_it_is_drawn(monkeypatch, capsys, tmp_path):
    out = tmp_path / "features"
    door(monkeypatch, "data=shapes", "data.num_samples=5", f"out={out}", "autoencoder=pixels")
    assert f"5 samples in 1 shards: {out}" in capsys.readouterr().out
    stored = Shards(out)
    found = {stored.key(row): stored.read(row) for row in range(len(stored))}
    drawn = Shapes("aesthetic", "train", num_samples=5, resolution=40, sizes=SIZES, density="dense", seed=0)
    assert sorted(found) == [drawn.key(row) for row in range(5)]
    for row in range(5):
        sample, image = found[drawn.key(row)], drawn.read(row)
        assert sample.captions == image.captions
        assert sample.features is not None
        assert sample.features.moments is not None
        assert image.image is not None
        pixels = image.image.transpose(2, 0, 1) / np.float32(127.5) - 1
        np.testing.assert_allclose(sample.features.moments[:3], pixels, atol=1e-3)


def test_a_mistake_is_one_sentence(monkeypatch, tmp_path, root):
    with pytest.raises(SystemExit, match="error: out is not set: give a folder for the features"):
        door(monkeypatch, f"data.root={root}")
    with pytest.raises(SystemExit, match="error: features are extracted from one folder of shards"):
        door(monkeypatch, f"data.mixture={{a: {{root: {root}}}}}", f"out={tmp_path / 'a'}")
