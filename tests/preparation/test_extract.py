"""Extraction: what is stored is what the encoders say, each shard whole or not there, in however many processes."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pixart.data.buckets import Bucket
from pixart.data.features import null_states
from pixart.data.source import Sample
from pixart.data.stamps import refuse_foreign
from pixart.data.storage.indexing import build_index, silent
from pixart.data.storage.shards import Encoded, Shards, write_shards
from pixart.data.transforms import fit, normalised
from pixart.encoders.autoencoder import Pixels
from pixart.encoders.text import TextEncoder, load_text_encoder
from pixart.preparation.encode import Encoders
from pixart.preparation.extract import Extracted, Share, extract

BUCKETS = (Bucket(8, 12), Bucket(12, 8))
SIZES = ((16, 24), (24, 16), (9, 12), (30, 20), (16, 24), (8, 12))
ALONE = Share(0, 1)


@pytest.fixture(scope="module")
def text() -> TextEncoder:
    return load_text_encoder("shapes-t5", max_tokens=12, cleaning="basic", dtype=torch.float32)


@pytest.fixture
def encoders(text: TextEncoder) -> Encoders:
    return Encoders(Pixels(scale=0.5), text, BUCKETS, "log", "int8", batch=2)


def encoded_image(i: int) -> Encoded:
    height, width = SIZES[i]
    pixels = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    captions = (f"a red circle {i}", "two squares")[: 1 + (i == 2)]
    return Encoded(f"{i:03d}", "png", buffer.getvalue(), captions, i, {"height": height, "width": width})


def shards(folder: Path, samples: Iterable[Encoded]) -> Path:
    folder.mkdir(exist_ok=True)
    write_shards(folder, samples, shard_size=2)
    build_index(folder)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return shards(tmp_path / "images", map(encoded_image, range(6)))


def run(root: Path, out: Path, encoders: Encoders, share: Share = ALONE, source: Any = None) -> Extracted:
    return extract(source or Shards(root), out, encoders=encoders, workers=0, share=share, told=silent)


def tars(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.tar"))}


def by_key(source: Shards) -> dict[str, tuple[int, Sample]]:
    return {source.key(row): (row, source.read(row)) for row in range(len(source))}


def test_all_6_samples_hold_what_the_encoders_say_and_keep_key_captions_label_and_original_size(
    root: Path, tmp_path: Path, encoders: Encoders, text: TextEncoder
):
    assert run(root, tmp_path / "out", encoders) == (6, 3, 0, {}, {})
    images, made = Shards(root), Shards(tmp_path / "out")
    features = by_key(made)
    assert len(features) == len(images) == 6
    for key, (row, sample) in by_key(images).items():
        at, own = features[key]
        assert (own.key, own.captions, own.label, own.image) == (key, sample.captions, sample.label, None)
        assert (made.heights[at], made.widths[at]) == (images.heights[row], images.widths[row])
        assert own.features is not None
        assert own.features.moments is not None
        bucket = BUCKETS[int(images.heights[row] > images.widths[row])]
        assert sample.image is not None
        pixels = normalised(fit(sample.image, bucket)).numpy().astype(np.float16)
        np.testing.assert_array_equal(own.features.moments, np.concatenate([pixels, np.zeros_like(pixels)]))
        for caption, levels, scales in zip(sample.captions, own.features.states, own.features.scales, strict=True):
            states, mask = text([caption])
            expected = states[0][mask[0]].numpy()
            error = np.abs(levels * scales[:, None] - expected)
            assert (error <= np.abs(expected).max(axis=1, keepdims=True) / 254 * 1.01 + 1e-5).all()


def test_the_stamps_are_those_of_the_encoders_and_hold_the_empty_caption(
    root: Path, tmp_path: Path, encoders: Encoders, text: TextEncoder
):
    run(root, tmp_path / "out", encoders)
    stamps = Shards(tmp_path / "out").stamps
    assert stamps is not None
    own: dict[str, Any] = {"autoencoder": encoders.latents.fingerprint, "text_encoder": text.fingerprint}
    refuse_foreign(stamps, "out", **own, buckets=BUCKETS, distance="log")
    levels, scales = null_states(stamps)
    assert scales is not None
    np.testing.assert_allclose(levels * scales[:, None], text([""])[0][0].numpy(), atol=0.02)
    assert (stamps["max_tokens"], stamps["cleaning"], stamps["states"]) == (12, "basic", "int8")


class Failing:
    """A source that dies at one row, and counts what was read of it."""

    def __init__(self, source: Shards, row: int | None):
        self._source, self._row = source, row
        self.rows: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def read(self, row: int) -> Sample:
        if row == self._row:
            raise RuntimeError("killed")
        self.rows.append(row)
        return self._source.read(row)


def test_a_killed_extraction_leaves_whole_shards_and_goes_on_with_the_missing_ones(
    root: Path, tmp_path: Path, encoders: Encoders
):
    run(root, tmp_path / "straight", encoders)
    out = tmp_path / "out"
    with pytest.raises(RuntimeError, match="killed"):
        run(root, out, encoders, source=Failing(Shards(root), 3))
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == ["000000.tar"]
    second = Failing(Shards(root), None)
    assert run(root, out, encoders, source=second).samples == 6
    assert second.rows == [2, 3, 4, 5]
    assert tars(out) == tars(tmp_path / "straight")
    assert Shards(out).fingerprint == Shards(tmp_path / "straight").fingerprint
    assert run(root, out, encoders, source=Failing(Shards(root), 0)).samples == 6  # nothing is left to be read


def test_2_processes_share_the_3_shards_and_the_one_that_ends_last_writes_the_index(
    root: Path, tmp_path: Path, encoders: Encoders
):
    run(root, tmp_path / "alone", encoders)
    out = tmp_path / "out"
    first = run(root, out, encoders, Share(1, 2))
    assert (first.samples, first.missing) == (2, 2)
    assert not (out / "index.parquet").exists()
    assert run(root, out, encoders, Share(0, 2)) == (6, 3, 0, {}, {})
    assert tars(out) == tars(tmp_path / "alone")
    assert len(Shards(out)) == 6


def test_what_cannot_be_read_or_has_no_caption_is_left_out_and_counted(tmp_path: Path, encoders: Encoders):
    samples = [encoded_image(i) for i in range(5)]
    samples[1] = samples[1]._replace(image=samples[1].image[:60])
    samples[4] = samples[4]._replace(captions=())
    root = shards(tmp_path / "images", samples)
    found = run(root, tmp_path / "out", encoders)
    assert (found.samples, found.shards) == (3, 3)
    assert sorted(found.skipped.values()) == [1, 1]
    assert found.first_skipped["no caption"] == "004"
    assert sorted(by_key(Shards(tmp_path / "out"))) == ["000", "002", "003"]


def test_without_a_text_encoder_there_are_moments_and_labels_alone(root: Path, tmp_path: Path, encoders: Encoders):
    run(root, tmp_path / "out", encoders._replace(text=None))
    made = Shards(tmp_path / "out")
    assert made.stamps is not None
    assert made.stamps["text_encoder"] is None
    features = made.read(0).features
    assert features is not None
    assert features.states == ()
    assert made.labels is not None


def test_a_folder_of_something_else_is_refused_with_the_mend(root: Path, tmp_path: Path, encoders: Encoders):
    with pytest.raises(ValueError, match="holds tars that are no features of these data: give a new folder"):
        run(root, root, encoders)
    out = tmp_path / "out"
    run(root, out, encoders)
    for other in (encoders._replace(latents=Pixels(scale=1.0)), encoders._replace(buckets=BUCKETS[:1])):
        with pytest.raises(ValueError, match="holds features of other data, encoders or buckets"):
            run(root, out, other)
    with pytest.raises(ValueError, match=r"data\.root holds features already"):
        run(out, tmp_path / "again", encoders)


def test_an_encoder_that_overflows_is_named_with_the_sample(root: Path, tmp_path: Path, encoders: Encoders):
    class Overflowing(Pixels):
        def moments(self, images: torch.Tensor) -> torch.Tensor:
            return super().moments(images) * float("inf")

    with pytest.raises(ValueError, match=r"^00\d: the moments as float16 are not all finite"):
        run(root, tmp_path / "out", encoders._replace(latents=Overflowing(scale=0.5)))
