"""From pictures to weights over a mixture of shards of which one byte has flipped: killed, and resumed on 1 or 2 ranks.

The shards are made as tools/prepare.py makes them; two in three samples come from one set, one in three from the other.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from miniature import SMALL, Silent, composed
from PIL import Image
from scripts import run_script

from pixart.build.training import run_training
from pixart.config import Config, parse
from pixart.data.embedded.shapes import Shapes
from pixart.data.storage.index import read_index
from pixart.data.storage.quarantine import add
from pixart.preparation.prepare import prepare

ROOT = Path(__file__).parents[2]
STEPS = 14
TIMED = {"images_per_second", "tflops", "mfu", "data_wait", "memory"}


class Made(NamedTuple):
    root: Path
    bad_key: str  # as the mixture names it

    def overrides(self, run: str, *more: str) -> list[str]:
        parts = ",".join(f"{name}:{{root:'{self.root / name}',weight:{w}}}" for name, w in (("photos", 2), ("art", 1)))
        small = [override for override in SMALL if not override.startswith("data.num_samples")]
        return [
            *("+stage=2", *small, "data=shards", f"data.mixture={{{parts}}}", "data.streams=4", "data.window=2"),
            *("sample_every=0", "snapshot_every=0", f"run_dir={self.root / run}", f"steps={STEPS}", *more),
        ]


def written(folder: Path, *, count: int, seed: int) -> Path:
    """A folder of pictures with captions beside them."""
    source = Shapes("captioned", "train", num_samples=count, resolution=32, sizes=None, density="sparse", seed=seed)
    folder.mkdir()
    for row in range(count):
        sample = source.read(row)
        assert sample.image is not None
        Image.fromarray(sample.image).save(folder / f"{row:03d}.png")
        (folder / f"{row:03d}.txt").write_text(sample.captions[0])
    return folder


def flip_a_byte(shards: Path, row: int) -> str:
    """In the middle of the image of a row; returns its key."""
    index = read_index(shards)
    middle = int(index.columns["image_offset"][row] + index.columns["image_size"][row] // 2)
    with (shards / index.shards[index.columns["shard"][row]].name).open("r+b") as tar:
        tar.seek(middle)
        byte = tar.read(1)[0]
        tar.seek(middle)
        tar.write(bytes([byte ^ 0x10]))
    return str(index.keys[row].as_py())


def launched(*runs: tuple[int, list[str], int | None]) -> None:
    wanted = [dict(zip(("world_size", "overrides", "kill_at"), run, strict=True)) for run in runs]
    run_script("ranks.py", wanted=wanted)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Shards, and the runs "unbroken" on 2 ranks and "elastic" on 2, then 1, then 2."""
    root = tmp_path_factory.mktemp("data")
    for seed, (name, count) in enumerate((("photos", 48), ("art", 24))):
        source = written(root / f"{name} pictures", count=count, seed=seed)
        prepare(source, root / name, kind="captions", shard_size=8, encode="keep", quality=95)
    made = Made(root, f"art/{flip_a_byte(root / 'art', 12)}")
    elastic = made.overrides("elastic")
    launched((2, made.overrides("unbroken"), None), (2, elastic, 4), (1, elastic, 8), (2, elastic, None))
    return made


def keys_read(run: Path) -> dict[tuple[int, int], set[str]]:
    """What was read at each (k, position), over all ranks and starts."""
    read: dict[tuple[int, int], set[str]] = {}
    for file in run.glob("keys_*.jsonl"):
        for line in map(json.loads, file.read_text().splitlines()):
            for position, key in enumerate(line["keys"], start=line["start"]):
                read.setdefault((line["k"], position), set()).add(key)
    return read


def log_of(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMED} for line in lines]


def test_2_ranks_then_1_then_2_read_the_global_batches_of_an_uninterrupted_run(made: Made) -> None:
    unbroken, elastic = keys_read(made.root / "unbroken"), keys_read(made.root / "elastic")
    assert {place: keys for place, keys in elastic.items() if place[0] < STEPS} == unbroken
    assert len(unbroken) == STEPS * 8
    assert all(len(keys) == 1 for keys in elastic.values())  # also what was read twice was the same


def test_losses_gradients_and_counts_agree_to_1e_5_with_those_of_an_uninterrupted_run(made: Made) -> None:
    unbroken, elastic = log_of(made.root / "unbroken"), log_of(made.root / "elastic")
    assert len(unbroken) == len(elastic) == 12
    for one, other in zip(unbroken, elastic, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


def test_of_112_samples_a_third_is_from_the_set_with_a_third_of_the_weight(made: Made) -> None:
    counts = Counter(next(iter(keys)).split("/")[0] for keys in keys_read(made.root / "unbroken").values())
    assert abs(counts["art"] - STEPS * 8 / 3) <= 2
    assert counts["art"] + counts["photos"] == STEPS * 8


def test_a_flipped_byte_is_told_with_its_key_counted_and_replaced_the_same_in_both_runs(made: Made) -> None:
    unbroken, elastic = (made.root / run / "bad_samples.jsonl" for run in ("unbroken", "elastic"))
    assert unbroken.read_text() == elastic.read_text()
    lines = [json.loads(line) for line in unbroken.read_text().splitlines()]
    assert {line["key"] for line in lines} == {made.bad_key}
    assert {line["reason"] for line in lines} == {"its bytes are not those that were indexed"}
    read = keys_read(made.root / "unbroken")
    for line in lines:
        (instead,) = read[line["k"], line["position"]]
        assert instead.startswith("art/")
        assert instead != made.bad_key
    logged = log_of(made.root / "unbroken")
    assert sum(line.get("bad_samples", 0) for line in logged) == len(lines)
    assert [line["bad_share"] for line in logged if "bad_share" in line][-1] == len(lines) / (STEPS * 8)


def quarantined(made: Made, name: str) -> str:
    file = made.root / name
    add(file, {made.bad_key: "a flipped byte", "photos/nowhere": "another data set's"})
    return f"data.quarantine='{file}'"


def test_a_run_under_quarantine_never_meets_the_key_and_says_what_is_left_out(made: Made) -> None:
    display = Silent()
    config = parse(composed(*made.overrides("clean", "steps=6", quarantined(made, "q.json"))), Config)
    run_training(config, lambda _: display)
    assert not (made.root / "clean" / "bad_samples.jsonl").exists()
    told = "q.json (version 1): 1 sample(s) are left out, and 1 of its keys are not in these data"
    assert any(told in said for said in display.said)


def test_a_resume_under_a_quarantine_is_refused_with_the_way_out(made: Made) -> None:
    overrides = made.overrides("unbroken", f"steps={STEPS + 1}", quarantined(made, "later.json"))
    with pytest.raises(ValueError, match=r"data\.quarantine \(was None, is .*later\.json\)"):
        run_training(parse(composed(*overrides), Config), lambda _: Silent())
    clean = made.overrides("clean", "steps=7", quarantined(made, "q.json"))
    add(made.root / "q.json", {"art/001": "blurred"})
    with pytest.raises(
        ValueError, match=r"under .*\(version 1\), and data\.quarantine is now .*\(version 2\).*init_from"
    ):
        run_training(parse(composed(*clean), Config), lambda _: Silent())


def test_one_bad_sample_stops_a_run_that_allows_none(made: Made) -> None:
    config = parse(composed(*made.overrides("strict", "data.max_bad_share=0")), Config)
    with pytest.raises(ValueError, match=rf"max_bad_share=0\.0 allows: {made.bad_key} .*bad_samples\.jsonl"):
        run_training(config, lambda _: Silent())
