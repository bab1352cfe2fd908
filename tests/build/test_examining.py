"""Laws of an examination: what it says of a run is what the run does, and every fault of the data is told."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from miniature import composed
from PIL import Image

from pixart.build.examining import Extent, examine
from pixart.build.opening import opened, planned
from pixart.config import Config, parse
from pixart.preparation.doctor import Examination
from pixart.preparation.prepare import prepare

TINY = ("scale=tiny", "global_batch=8", "micro_batch=4", "data.validation_samples=2", "steps=10")
EXTENT = Extent(samples=100, shards=4, processes=1)


def config(stage: int, *overrides: str) -> Config:
    return parse(composed(f"+stage={stage}", *TINY, *overrides), Config)


def photos(folder: Path, count: int = 24, captions: Callable[[int], str] = "a red circle {}".format) -> Path:
    """Shards of ``count`` photographs, of three sizes in turn."""
    source = folder / "photos"
    source.mkdir(parents=True)
    for i in range(count):
        size = ((40, 40), (80, 40), (30, 60))[i % 3]
        pixels = np.random.default_rng(i).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(source / f"{i:03d}.png")
        (source / f"{i:03d}.txt").write_text(captions(i))
    prepare(source, folder / "shards", kind="captions", shard_size=8, encode="keep", quality=95)
    return folder / "shards"


def on_shards(root: Path, *overrides: str) -> Config:
    return config(3, "data=shards", f"data.root={root}", "data.workers=0", "data.streams=2", *overrides)


def test_the_embedded_data_would_train_in_every_stage_and_its_40_classes_are_all_there() -> None:
    for stage in (1, 2, 3):
        found = examine(config(stage, "data.num_samples=400"), EXTENT)
        assert found.all_problems == []
        assert found.read is not None
        assert (found.read.samples, found.read.bad) == (100, {})
        assert (found.labels is None) == (found.captions is not None) == (stage > 1)
        if found.labels is not None:
            assert (found.labels.classes, found.labels.missing, found.labels.outside) == (40, 0, 0)


def test_batches_of_each_bucket_are_those_of_the_plan_to_within_2_in_200_steps(tmp_path: Path) -> None:
    run = on_shards(photos(tmp_path), "steps=200", "global_batch=4", "micro_batch=4")
    found = examine(run, EXTENT)
    plan = planned(run, opened(run), order_cache=None)
    buckets = [plan.batch(k).bucket for k in range(200)]
    assert found.plan is not None
    for bucket in found.plan.buckets:
        assert abs(buckets.count(bucket.bucket) - bucket.batches) <= 2
    assert found.plan.samples_seen == pytest.approx(800)
    assert found.plan.samples == 22
    assert sum(bucket.samples for bucket in found.plan.buckets) == 22


def test_a_mixture_gets_its_shares_of_3_to_1_within_a_hundredth(tmp_path: Path) -> None:
    one, two = photos(tmp_path / "a"), photos(tmp_path / "b", count=12)
    mixture = f"data.mixture={{a: {{root: {one}, weight: 3}}, b: {{root: {two}, weight: 1}}}}"
    found = examine(config(3, "data=shards", mixture, "data.small_buckets=repeat"), EXTENT)
    assert found.all_problems == []
    assert found.plan is not None
    assert [(part.name, part.asked) for part in found.plan.parts] == [("a", 0.75), ("b", 0.25)]
    assert [part.share for part in found.plan.parts] == pytest.approx([0.75, 0.25], abs=0.01)


def flipped(root: Path, *keys: str) -> None:
    """One byte of the image of each key is another one."""
    from pixart.data.storage.index import read_index

    index = read_index(root)
    for key in keys:
        row = index.keys.to_pylist().index(key)
        path = root / index.shards[int(index.columns["shard"][row])].name
        data = bytearray(path.read_bytes())
        data[int(index.columns["image_offset"][row]) + 30] ^= 0xFF
        path.write_bytes(data)


def test_2_flipped_bytes_are_2_bad_samples_which_a_quarantine_leaves_out(tmp_path: Path) -> None:
    root = photos(tmp_path)
    data = opened(on_shards(root))
    one, two, held = (
        data.source.key(int(row)) for row in (data.parts[""].rows[3], data.parts[""].rows[17], data.held_rows[0])
    )
    flipped(root, one, two, held)
    found = examine(on_shards(root, "steps=2000"), EXTENT)
    assert sorted(found.bad) == sorted([one, two, held])
    assert found.read is not None
    assert sorted(found.read.bad) == [one, two]  # a held-out one does not count against the share
    assert any("held out, 1 of 2 samples are bad" in remark for remark in found.remarks)
    assert any("2 of 22 samples are bad" in problem for problem in found.all_problems)
    from pixart.preparation.doctor_quarantine import put_away

    put_away(tmp_path / "bad.json", {**found.bad, "unknown": "of another data set"})
    after = examine(on_shards(root, f"data.quarantine={tmp_path / 'bad.json'}"), EXTENT)
    assert (after.bad, after.all_problems) == ({}, [])
    assert after.quarantine is not None
    assert after.quarantine[1:] == (1, 4, 3)
    assert after.read is not None
    assert after.read.samples == 20


def stops(found: Examination) -> str:
    (problem,) = found.all_problems
    assert "\n" not in problem
    return problem


def test_data_that_cannot_be_opened_are_1_sentence_and_nothing_more(tmp_path: Path) -> None:
    assert "missing" in stops(examine(on_shards(tmp_path / "nowhere"), EXTENT))
    root = photos(tmp_path)
    (root / "000001.tar").unlink()
    assert "000001.tar is missing" in stops(examine(on_shards(root), EXTENT))


def test_a_shard_that_cannot_be_read_is_told_and_the_others_are_looked_into(tmp_path: Path) -> None:
    root = photos(tmp_path)
    tar = root / "000001.tar"
    size = tar.stat().st_size
    with tar.open("r+b") as file:  # as long as before, so that the index fits, but empty from there on
        file.truncate(1024)
        file.truncate(size)
    found = examine(on_shards(root), EXTENT)
    assert found.read is not None
    assert len(found.bad) + len(found.read.broken) >= 1
    assert len(found.read.captions) >= 14  # of 16, two may be held out
    assert found.all_problems


def test_a_bucket_that_is_refused_stops_the_run_and_the_rest_is_told(tmp_path: Path) -> None:
    found = examine(on_shards(photos(tmp_path), "data.small_buckets=refuse"), EXTENT)
    assert "fewer than its global batch of 8" in stops(found)
    assert found.sizes is not None
    assert {small.fate for small in found.sizes.small} == {"stops the run"}
    assert found.captions is not None


def test_a_batch_of_4_that_8_processes_cannot_share_stops_the_run() -> None:
    found = examine(config(2, "global_batch=4", "micro_batch=4"), Extent(samples=4, shards=1, processes=8))
    assert "cannot be shared by 8 processes" in stops(found)


def test_labels_beyond_the_classes_are_counted_in_all_samples() -> None:
    found = examine(config(1, "data.num_classes=30", "data.num_samples=400"), Extent(4, 1, 1))
    assert found.labels is not None
    assert 50 < found.labels.outside < 150  # about a quarter of 400
    assert f"{found.labels.outside} of 400 samples (labelled-train-" in found.all_problems[0]
    assert "a label that is not one of the 30 classes: set data.num_classes" in found.all_problems[0]


def test_a_caption_of_40_words_is_cut_at_24_tokens(tmp_path: Path) -> None:
    root = photos(tmp_path, captions=lambda i: "red circle " * 20 if i < 12 else "a red circle")
    found = examine(on_shards(root, "data.validation_samples=0"), EXTENT)
    assert found.captions is not None
    assert (found.captions.max_tokens, found.captions.truncated, found.captions.longest) == (24, 0.5, 41)
    assert any("50.0 % of the captions are longer" in remark for remark in found.remarks)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_shard_without_permission_is_1_sentence(tmp_path: Path) -> None:
    root = photos(tmp_path)
    (root / "000000.tar").chmod(0)
    found = examine(on_shards(root), EXTENT)
    assert found.read is not None
    assert len(found.read.broken) == 1
