"""A hostile folder: nothing crashes, nothing vanishes, nothing is read outside, and converted pixels are right."""

import importlib.util
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hostile import CAPTIONS, make_hostile, without_privilege

from pixart.data.storage.shards import Shards
from pixart.preparation.prepare import prepare

OPTIONS = {"kind": "auto", "shard_size": 100, "encode": "keep", "quality": 95}
ROOT = Path(__file__).parents[2]

USED = ("good", "emoji", "rtl", "new\nline", "marked", "inside", "phone", "banner")
CONVERTED = {
    "cmyk.jpg": "CMYK to RGB",
    "sixteen.png": "16 bits to 8, grey to RGB",
    "sixteen-rgb.png": "16 bits to 8",
    "animated.gif": "first of its frames, palette to RGB, stored as png",
    "wrong.jpg": "PNG named .jpg",
    "turned.jpg": "turned upright",
    "clear.png": "transparency laid on white",
}
REFUSED = {  # images, by their names, without those of their captions
    "truncated.jpg": "image is truncated",
    "zero.jpg": "image file is empty",
    "words.png": "image cannot be decoded",
    "bomb.png": "image has more than 178 million pixels",
    "floats.tif": "image has 32-bit values, of which none is known to be white",
    "sparse.png": "image cannot be read: more than 1024 MiB",
    "pipe.png": "image cannot be read: not a regular file",
    "out.jpg": "image cannot be read: a link out of the folder",
    "up.jpg": "image cannot be read: a link out of the folder",
    "self.jpg": "image cannot be read: too many levels of symbolic links",
    "locked.jpg": "image cannot be read: permission denied",
    "leak.jpg": "its caption cannot be read: a link out of the folder",
    "mute.jpg": "its caption cannot be read: permission denied",
    "blank.jpg": "its caption is empty",
    "latin.jpg": "its caption is not UTF-8",
}
OTHERS = {
    "alone.jpg": "no caption beside it",
    "good.TXT": "second caption of an image",
    "\x1b[31mred\n.txt": "caption without an image",
    "notes.md": "neither image nor caption",
    "folder": "link to a folder",
    "shut": "folder that cannot be read",
}
IDLE = {str(Path(name).with_suffix(".txt")): "caption of an image that is not used" for name in REFUSED}
SKIPPED = {**REFUSED, **OTHERS, **IDLE}


@pytest.fixture
def hostile(tmp_path: Path) -> Iterator[Path]:
    make_hostile(tmp_path / "hostile")
    yield tmp_path / "hostile"
    (tmp_path / "hostile" / "shut").chmod(0o700)  # or nobody but root could delete it


def listed(path: Path) -> dict[str, str]:
    """The names in a .tsv, each with what is said of it."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    return {json.loads(name): what for what, name in rows}


def test_each_of_66_files_is_used_converted_or_refused_with_its_reason(hostile: Path, tmp_path: Path):
    names = {path.name for path in hostile.iterdir()}
    with without_privilege():
        prepared = prepare(hostile, tmp_path / "out", **OPTIONS)
    assert prepared.used == {"image": len(USED), "caption beside an image": len(USED) + len(CONVERTED)}
    assert listed(tmp_path / "out/converted.tsv") == CONVERTED
    assert listed(tmp_path / "out/skipped.tsv") == SKIPPED
    with_captions = [f"{Path(name).stem}.txt" for name in (*USED, *CONVERTED)]
    images = [name for name in names if Path(name).stem in USED and not name.lower().endswith(".txt")]
    assert {*images, *CONVERTED, *with_captions, *SKIPPED} == names  # 66 of them, and none twice
    assert len(images) + len(CONVERTED) + len(with_captions) + len(SKIPPED) == len(names) == 66


def test_what_is_used_has_its_caption_and_nothing_from_outside_the_folder_is_in_a_tar(hostile: Path, tmp_path: Path):
    with without_privilege():
        prepare(hostile, tmp_path / "out", **OPTIONS)
    shards = Shards(tmp_path / "out")
    found = {shards.key(row): shards.read(row).captions[0] for row in range(len(shards))}
    assert found["emoji"] == CAPTIONS["emoji"]
    assert found["rtl"] == CAPTIONS["rtl"]
    assert found["good"] == CAPTIONS["good"]
    assert found["marked"] == "written by an editor that marks its files"
    assert found["new_line"] == CAPTIONS["new\nline"]
    assert all(key.isprintable() for key in found)
    assert b"secret" not in b"".join(path.read_bytes() for path in tmp_path.glob("out/*"))


def near(pixels: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool(abs(pixels.astype(int) - colour).max() <= 6)  # JPEG


def test_converted_pixels_are_what_a_viewer_shows(hostile: Path, tmp_path: Path):
    prepare(hostile, tmp_path / "out", **OPTIONS)
    shards = Shards(tmp_path / "out")
    rows = {shards.key(row): row for row in range(len(shards))}
    pixels = {key: shards.read(row).image for key, row in rows.items()}
    for key, row in rows.items():
        assert pixels[key].shape == (shards.heights[row], shards.widths[row], 3), key
    assert near(pixels["cmyk"][:, :12], (0, 255, 255))
    assert near(pixels["cmyk"][:, 20:], (0, 0, 0))
    for key in ("sixteen", "sixteen-rgb"):
        assert pixels[key][0].tolist() == [[0] * 3, [1] * 3, [100] * 3, [255] * 3]
    assert near(pixels["animated"], (255, 0, 0))  # the first of red, green and blue
    assert pixels["wrong"][0, 0].tolist() == [0, 255, 0]
    assert pixels["turned"].shape == (32, 16, 3)
    assert near(pixels["turned"][:12], (0, 0, 255))  # what was stored at the left is on top
    assert near(pixels["turned"][20:], (255, 0, 0))
    assert pixels["clear"].tolist() == [[[255, 255, 255], [127, 127, 127]]]
    assert near(pixels["phone"], (255, 0, 0))
    assert pixels["banner"].shape == (20, 30_000, 3)


def test_the_door_prints_a_row_for_each_fate_on_one_line_and_the_rows_add_up_to_66(
    hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    spec = importlib.util.spec_from_file_location("prepare_tool", ROOT / "tools/prepare.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setattr(sys, "argv", ["tools/prepare.py", f"source={hostile}", f"out={tmp_path / 'out'}"])
    monkeypatch.setenv("COLUMNS", "200")
    with patch.dict(os.environ), without_privilege():
        os.environ.pop("HYDRA_FULL_ERROR", None)
        tool.door("prepare", tool.run)()
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out
    assert printed.err == ""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.out.splitlines() if "│" in line]
    told = {(fate, what): int(count) for fate, count, what, _ in rows}
    assert told == {
        ("used", "image"): 8,
        ("used", "caption beside an image"): 15,
        **{("converted", how): count for how, count in Counter(CONVERTED.values()).items()},
        **{("skipped", why): count for why, count in Counter(SKIPPED.values()).items()},
    }
    assert sum(told.values()) == 66
    assert "15 samples in 1 shards" in printed.out


def test_a_list_may_name_images_anywhere_and_a_folder_of_classes_may_not_be_left(tmp_path: Path):
    make_hostile(tmp_path / "hostile")
    line = {"image": str(tmp_path / "outside/secret.jpg"), "caption": "purple"}
    (tmp_path / "list").mkdir()
    (tmp_path / "list/pictures.jsonl").write_text(json.dumps(line) + "\n" + "[" * 100_000)
    prepared = prepare(tmp_path / "list/pictures.jsonl", tmp_path / "of-list", **OPTIONS)
    assert (prepared.samples, prepared.skipped) == (1, {"line is not JSON": 1})
    (tmp_path / "classes/cat").mkdir(parents=True)
    (tmp_path / "classes/dog").symlink_to(tmp_path / "outside")
    (tmp_path / "classes/cat/out.jpg").symlink_to(tmp_path / "outside/secret.jpg")
    (tmp_path / "classes/cat/good.jpg").write_bytes((tmp_path / "hostile/good.jpg").read_bytes())
    prepared = prepare(tmp_path / "classes", tmp_path / "of-classes", **OPTIONS)
    assert prepared.used == {"image": 1}
    assert prepared.skipped == {"link to a folder": 1, "image cannot be read: a link out of the folder": 1}
    (tmp_path / "hostile/shut").chmod(0o700)


def test_a_folder_given_through_a_link_is_the_folder(hostile: Path, tmp_path: Path):
    (tmp_path / "link").symlink_to(hostile)
    assert prepare(tmp_path / "link", tmp_path / "out", **OPTIONS).samples >= 15
