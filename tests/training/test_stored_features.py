"""Training on extracted features: the run that it would be online, without the text encoder."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from miniature import SMALL, Silent, composed
from PIL import Image

from pixart.build.examining import Extent, examine
from pixart.build.extracting import run_extraction
from pixart.build.opening import opened
from pixart.build.training import run_training
from pixart.config import Config, parse
from pixart.data.embedded.shapes import Shapes
from pixart.encoders import text
from pixart.formats.snapshot import find_snapshot, read_snapshot
from pixart.preparation.prepare import prepare

BUCKETS = "data.buckets=[[32,32],[24,40]]"


class Data(NamedTuple):
    root: Path

    def config(self, data: str, run: str, *more: str) -> Config:
        small = [override for override in SMALL if not override.startswith("data.num_samples")]
        overrides = [
            *("+stage=2", *small, "data=shards", f"data.root='{self.root / data}'", BUCKETS, "data.caption_drop=0.3"),
            *("steps=4", "validate_every=0", "sample_every=0", "log_every=1", "checkpoint_every=0"),
            *(f"run_dir={self.root / run}", *more),
        ]
        return parse(composed(*overrides), Config)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """The folders "shards" and "features"; and the runs "online" and "stored" over them."""
    root = tmp_path_factory.mktemp("features")
    sizes = ((32, 32), (40, 64))
    source = Shapes("captioned", "train", num_samples=32, resolution=32, sizes=sizes, density="dense", seed=0)
    (root / "pictures").mkdir()
    for row in range(len(source)):
        sample = source.read(row)
        assert sample.image is not None
        Image.fromarray(sample.image).save(root / "pictures" / f"{row:03d}.png")
        (root / "pictures" / f"{row:03d}.txt").write_text(sample.captions[1])
    prepare(root / "pictures", root / "shards", kind="captions", shard_size=10, encode="keep", quality=95)
    data = Data(root)
    extraction = data.config("shards", "unused")
    run_extraction(extraction, root / "features", states="int8", batch=8, told=lambda _done, _of: None)
    run_training(data.config("shards", "online"), lambda _: Silent())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "_read", unread)
        run_training(data.config("features", "stored"), lambda _: Silent())
    return data


def unread(*_arguments: Any) -> Any:
    raise AssertionError("the weights of the text encoder were read")


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_4_steps_on_features_have_the_losses_of_4_online_to_1e_3_and_t5_stays_on_the_disk(data: Data) -> None:
    assert len(losses(data.root / "stored")) == 4
    assert losses(data.root / "stored") == pytest.approx(losses(data.root / "online"), rel=1e-3)


def test_the_snapshot_has_the_stamps_and_to_half_a_percent_the_empty_caption_of_the_run_online(data: Data) -> None:
    stored, online = (read_snapshot(find_snapshot(data.root / run)) for run in ("stored", "online"))
    assert stored.stamps == online.stamps
    assert stored.null_caption is not None
    assert online.null_caption is not None
    assert stored.null_caption.shape == online.null_caption.shape
    error = (stored.null_caption - online.null_caption).abs().max() / online.null_caption.abs().max()
    assert 0 < error < 0.005


def test_where_pictures_are_drawn_the_text_encoder_is_read(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_read", unread)
    with pytest.raises(AssertionError, match="were read"):
        run_training(data.config("features", "drawn", "sample_every=1"), lambda _: Silent())
    monkeypatch.undo()
    run_training(data.config("features", "drawn", "sample_every=1", "steps=1"), lambda _: Silent())
    assert (data.root / "drawn" / "samples" / "step_00000001.png").is_file()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("text_encoder.cleaning=none", r"made by another text_encoder .*tools/extract\.py"),
        ("text_encoder.max_tokens=20", r"made by another text_encoder"),
        ("data.buckets=[[32,32]]", r"fitted to 2 buckets"),
        ("data.bucket_distance=log", r"fitted to 2 buckets by linear"),
        ("data.flip=true", r"data\.flip=true mirrors images"),
        ("global_batch=20", r"would be merged into (32x32|24x40).*data\.small_buckets=repeat"),
    ],
)
def test_a_run_that_would_make_other_features_is_refused_with_the_mend(data: Data, override: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run_training(data.config("features", "refused", override), lambda _: Silent())


def test_stage_1_would_find_no_labels_and_says_so(data: Data) -> None:
    config = data.config("features", "labels", "text_encoder=none", "data.num_classes=40", "data.caption_drop=0")
    with pytest.raises(
        ValueError, match=r"^32 of 32 samples .* have no label.*: these data are for training on captions"
    ):
        run_training(config, lambda _: Silent())


def test_features_keep_the_size_of_the_picture_that_they_were_made_of(data: Data) -> None:
    source = opened(data.config("features", "unused")).source
    assert {(int(h), int(w)) for h, w in zip(source.heights, source.widths, strict=True)} == {(32, 32), (40, 64)}
    for row in range(len(source)):
        features = source.read(row).features
        assert features is not None
        assert features.moments is not None
        assert features.moments.shape == ((6, 32, 32) if source.heights[row] == 32 else (6, 24, 40))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (("data.flip=true",), r"data\.flip=true mirrors images"),
        (("data.small_buckets=merge", "global_batch=16"), r"would be merged into .*data\.small_buckets=repeat"),
    ],
)
def test_training_and_the_doctor_refuse_in_1_sentence_what_moments_cannot_do(
    data: Data, override: tuple[str, ...], words: str
) -> None:
    config = data.config("features", "refused", *override)
    with pytest.raises(ValueError, match=words) as stopped:
        run_training(config, lambda _: Silent())
    assert examine(config, Extent(samples=4, shards=4, processes=1)).all_problems == [str(stopped.value)]
