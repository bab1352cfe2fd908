"""Real photographs: prepared into three aspect ratios, trained on in stages 2 and 3, and (slow) learnt by heart."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from miniature import SMALL, Silent, composed
from photographs import write_photographs, write_text_encoder

from pixart.build.drawing import open_weights
from pixart.build.opening import opened
from pixart.build.training import run_training
from pixart.config import Config, parse
from pixart.data.buckets import Bucket
from pixart.data.storage.shards import Shards
from pixart.data.transforms import fit
from pixart.preparation.prepare import prepare

BUCKETS = (Bucket(40, 40), Bucket(32, 48), Bucket(24, 64))
DIM = 64  # of the text


class Photographs(NamedTuple):
    root: Path
    captions: dict[str, str]

    def config(self, stage: int, run: str, *more: str) -> Config:
        """A run on the photographs at the scale of the tests; later words win."""
        overrides = [
            *(f"+stage={stage}", *(word for word in SMALL if not word.startswith("data.num_samples"))),
            *("data=shards", f"data.root='{self.root / 'shards'}'", "data.workers=0", "data.validation_samples=0"),
            f"data.buckets={[list(bucket) for bucket in BUCKETS]}",
            *("data.small_buckets=repeat", "resolution=40", "data.streams=1", "data.window=1"),
            *(f"text_encoder.source='{self.root / 'text'}'", f"text_encoder.dim={DIM}", "text_encoder.max_tokens=40"),
            *("validate_every=0", "sample_every=0", f"run_dir='{self.root / run}'", *more),
        ]
        return parse(composed(*overrides), Config)

    def fitted(self) -> dict[str, tuple[Bucket, np.ndarray]]:
        """Each photograph at the size that it is trained at, (height, width, 3) uint8, by its caption."""
        shards = Shards(self.root / "shards")
        found = {}
        for row in range(len(shards)):
            sample = shards.read(row)
            assert sample.image is not None
            ratio = shards.heights[row] / shards.widths[row]
            bucket = min(BUCKETS, key=lambda size: abs(size.height / size.width - ratio))
            found[sample.captions[0]] = bucket, fit(sample.image, bucket).permute(1, 2, 0).numpy()
        return found


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Photographs:
    root = tmp_path_factory.mktemp("photographs")
    captions = write_photographs(root / "source")
    prepared = prepare(root / "source", root / "shards", kind="auto", shard_size=8, encode="keep", quality=95)
    assert (prepared.samples, prepared.skipped) == (21, {})
    assert prepared.used["image"] + sum(prepared.converted.values()) == 21
    write_text_encoder(root / "text", dim=DIM)
    return Photographs(root, captions)


def test_21_photographs_fill_3_buckets_and_keep_their_captions(photographs: Photographs) -> None:
    sizes = [bucket for bucket, _ in photographs.fitted().values()]
    assert {bucket: sizes.count(bucket) for bucket in BUCKETS} == {BUCKETS[0]: 11, BUCKETS[1]: 8, BUCKETS[2]: 2}
    assert set(photographs.fitted()) == set(photographs.captions.values())
    data = opened(photographs.config(3, "unused"))
    assert len(data.source) == 21


def test_the_states_of_any_2_captions_differ_in_their_means(photographs: Photographs) -> None:
    from pixart.encoders.text import load_text_encoder

    encoder = load_text_encoder(str(photographs.root / "text"), max_tokens=40, cleaning="basic", dtype=torch.float32)
    states, mask = encoder(list(photographs.captions.values()))
    unknown = encoder.tokenizer.backend.unk_token_id
    assert not any(unknown in ids for ids in encoder.tokenize(list(photographs.captions.values())))
    means = states.sum(1) / mask.sum(1, keepdim=True)  # (21, D)
    apart = torch.cdist(means, means) + 1e9 * torch.eye(len(means))
    assert apart.min() > 0.3 * means.std(0).norm()


def test_stages_2_and_3_train_on_them_for_6_steps_and_draw_at_each_of_their_sizes(photographs: Photographs) -> None:
    run_training(photographs.config(2, "two", "steps=6", "data.buckets=square", "resolution=32"), lambda _: Silent())
    from_two = (f"init_from='{photographs.root / 'two'}'", "steps=6", "log_every=1")
    run_training(photographs.config(3, "three", *from_two), lambda _: Silent())
    lines = [json.loads(line) for line in (photographs.root / "three/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 6
    assert np.isfinite(losses).all()
    assert not any(line.get("bad_samples") for line in lines)
    drawn = draw(photographs.root / "three", photographs.fitted(), steps=2)
    assert [image.shape[:2] for image in drawn.values()] == [size for size, _ in photographs.fitted().values()]


def draw(run: Path, photographs: dict[str, tuple[Bucket, np.ndarray]], *, steps: int) -> dict[str, np.ndarray]:
    """A sample of each caption at guidance 1, at the size of its photograph."""
    pipeline, _, habits = open_weights(str(run), precision="fp32", text_source=None, autoencoder_source=None)
    captions = list(photographs)
    images = pipeline(
        prompts=captions,
        labels=None,
        seeds=list(range(len(captions))),
        sizes=[photographs[caption][0] for caption in captions],
        scheduler_name=habits.scheduler_name,
        num_inference_steps=steps,
        guidance_scale=1.0,
        guidance_channels="all",
        batch_size=16,
        binning="none",
    )
    return dict(zip(captions, images, strict=True))


# What a model of 1.3 million weights needs to learn 21 photographs by heart: no dropped captions, and time.
BY_HEART = (
    *("model.dim=144", "model.depth=4", "model.num_heads=3", "model.interpolation_scale=0.25"),
    *("global_batch=16", "micro_batch=16", "optimizer.lr_decay=linear", "optimizer.weight_decay=0"),
    *("optimizer.matrix_lr=2e-2", "optimizer.momentum=0.95", "optimizer.betas=[0.9,0.999]"),
    *("data.caption_drop=0", "data.max_bad_share=0", "ema.decay=0.995"),
    *("checkpoint_every=0", "snapshot_every=1000", "log_every=100"),
)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_21_photographs_learnt_by_heart_are_nearest_to_themselves_and_at_20_db(photographs: Photographs) -> None:
    """At guidance 1 the sample of each caption is nearer in pixels to its own photograph than to any other."""
    run_training(photographs.config(2, "heart-2", "steps=300", *BY_HEART), lambda _: Silent())
    from_two = f"init_from='{photographs.root / 'heart-2'}'"
    run_training(photographs.config(3, "heart-3", "steps=800", from_two, *BY_HEART), lambda _: Silent())
    wanted = photographs.fitted()
    drawn = draw(photographs.root / "heart-3", wanted, steps=50)
    psnr = []
    for caption, image in drawn.items():
        size, own = wanted[caption]
        errors = {
            other: float(np.square(image.astype(float) - at_size(pixels, size)).mean())
            for other, (_, pixels) in wanted.items()
        }
        assert min(errors, key=lambda other: errors[other]) == caption
        psnr.append(10 * np.log10(255**2 / np.square(image.astype(float) - own).mean()))
    assert np.mean(psnr) >= 20


def at_size(pixels: np.ndarray, size: Bucket) -> np.ndarray:
    """Another photograph at the size of this one, cropped as training would."""
    return fit(pixels, size).permute(1, 2, 0).numpy().astype(float)
