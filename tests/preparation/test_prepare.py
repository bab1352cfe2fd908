"""Laws of the preparation: every file is accounted for, what is used is read back, and shards appear all at once."""

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import pytest
from PIL import Image

from pixart.data.storage.index import read_index
from pixart.data.storage.shards import Shards
from pixart.preparation.account import Prepared
from pixart.preparation.prepare import prepare

OPTIONS = {"kind": "auto", "shard_size": 3, "encode": "keep", "quality": 95}
ROOT = Path(__file__).parents[2]


def save(path: Path, colour: int = 100, size: tuple[int, int] = (6, 4), **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 0, 0)).save(path, **options)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six usable images with captions, and one of every mishap."""
    root = tmp_path / "photos"
    for i, name in enumerate(["a.png", "b.jpg", "b.webp", "deep/c.d.png", "deep/e.gif", "deep/f.bmp"]):
        save(root / name, colour=i)
    for name in ["a", "b", "deep/c.d", "deep/e", "deep/f"]:
        (root / f"{name}.txt").write_text(f"  caption of {name}\n")
    save(root / "alone.png")
    (root / "orphan.txt").write_text("no image")
    save(root / "empty.png")
    (root / "empty.txt").write_text(" \n")
    save(root / "latin.png")
    (root / "latin.txt").write_bytes("é".encode("latin-1"))
    (root / "broken.jpg").write_bytes((root / "b.jpg").read_bytes()[:200])
    (root / "broken.txt").write_text("half an image")
    (root / "notes.md").write_text("hello")
    (root / "gone.png").symlink_to(root / "nowhere.png")
    (root / "gone.txt").write_text("a broken link")
    os.mkfifo(root / "pipe.png")
    (root / "pipe.txt").write_text("would wait for ever")
    (root / "linked").symlink_to(root / "deep")
    return root


def files(root: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(root))


def total(prepared: Prepared) -> int:
    return sum(sum(counts.values()) for counts in (prepared.used, prepared.converted, prepared.skipped))


def test_every_file_of_a_folder_is_used_or_named_with_a_reason(photos: Path, tmp_path: Path):
    prepared = prepare(photos, tmp_path / "out", **OPTIONS)
    assert prepared.used == {"image": 4, "caption beside an image": 5}
    assert prepared.converted == {"palette to RGB, stored as png": 1, "stored as png": 1}
    assert prepared.skipped == {
        "no caption beside it": 1,
        "caption without an image": 1,
        "its caption is empty": 1,
        "its caption is not UTF-8": 1,
        "image is truncated": 1,
        "neither image nor caption": 1,
        "image cannot be read: no such file or directory": 1,
        "image cannot be read: not a regular file": 1,
        "link to a folder": 1,
        "caption of an image that is not used": 5,
    }
    assert total(prepared) == files(photos) + 1  # and the linked folder
    assert prepared.first_skipped["image is truncated"] == "broken.jpg"
    lines = (tmp_path / "out" / "skipped.tsv").read_text().splitlines()
    assert len(lines) == 14
    assert 'neither image nor caption\t"notes.md"' in lines


def test_what_is_prepared_is_read_back_with_caption_size_and_pixels(photos: Path, tmp_path: Path):
    prepared = prepare(photos, tmp_path / "out", **OPTIONS)
    shards = Shards(tmp_path / "out")
    assert (prepared.samples, prepared.shards, len(shards)) == (6, 2, 6)
    assert [shards.key(row) for row in range(6)] == ["a", "b", "b-2", "deep/c_d", "deep/e", "deep/f"]
    samples = [shards.read(row) for row in range(6)]
    assert [s.captions for s in samples] == [
        (f"caption of {n}",) for n in ("a", "b", "b", "deep/c.d", "deep/e", "deep/f")
    ]
    assert shards.labels is None
    assert (shards.heights.tolist(), shards.widths.tolist()) == ([4] * 6, [6] * 6)
    for colour, sample in enumerate(samples):
        assert abs(sample.image.astype(int) - [colour, 0, 0]).max() <= 3


def test_kept_images_are_the_files_bytes_and_the_shards_are_the_same_each_time(photos: Path, tmp_path: Path):
    for name in ("one", "two"):
        prepare(photos, tmp_path / name, **OPTIONS)
    tars = sorted((tmp_path / "one").glob("*.tar"))
    for path in tars:
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    assert (photos / "b.jpg").read_bytes() in tars[0].read_bytes()
    assert read_index(tmp_path / "one").fingerprint == read_index(tmp_path / "two").fingerprint


@pytest.mark.parametrize(("encode", "magic"), [("jpg", b"\xff\xd8"), ("png", b"\x89PNG"), ("webp", b"RIFF")])
def test_encoding_anew_makes_every_image_of_one_format(photos: Path, tmp_path: Path, encode: str, magic: bytes):
    prepare(photos, tmp_path / "out", **{**OPTIONS, "encode": encode})
    shards = Shards(tmp_path / "out")
    assert all(bytes(shards._members(row)["image"]).startswith(magic) for row in range(6))


@pytest.mark.parametrize("encode", ["keep", "png"])
def test_a_turned_photograph_is_measured_and_read_upright(tmp_path: Path, encode: str):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "in/a.jpg", size=(6, 4), exif=exif)
    (tmp_path / "in/a.txt").write_text("turned")
    prepare(tmp_path / "in", tmp_path / "out", **{**OPTIONS, "encode": encode})
    shards = Shards(tmp_path / "out")
    assert (shards.heights[0], shards.widths[0]) == shards.read(0).image.shape[:2] == (6, 4)


def test_class_folders_become_labels_in_the_order_of_their_names(tmp_path: Path):
    for i, name in enumerate(["zebra/1.png", "ant/1.png", "ant/more/2.png"]):
        save(tmp_path / "in" / name, colour=i)
    save(tmp_path / "in/stray.png")
    (tmp_path / "in/README.txt").write_text("not a caption")
    prepared = prepare(tmp_path / "in", tmp_path / "out", **OPTIONS)
    assert prepared.used == {"image": 3}
    assert prepared.skipped == {"not in a class folder": 1, "not an image": 1}
    assert json.loads((tmp_path / "out/classes.json").read_text()) == ["ant", "zebra"]
    shards = Shards(tmp_path / "out")
    assert [(shards.key(row), shards.read(row).label) for row in range(3)] == [
        ("ant/1", 0),
        ("ant/more/2", 0),
        ("zebra/1", 1),
    ]
    assert shards.read(0).captions == ()


def test_every_line_of_a_jsonl_is_used_or_named_with_a_reason(tmp_path: Path):
    save(tmp_path / "in/a.png")
    lines = [
        {"image": "a.png", "caption": "one"},
        {"image": "a.png", "captions": ["two", "three", ""], "label": 4},
        {"image": str(tmp_path / "in/a.png"), "label": 0},
        {"caption": "no image"},
        {"image": "a.png"},
        {"image": "a.png", "caption": 5},
        {"image": "a.png", "caption": "\ud800"},
        {"image": "a.png", "label": "cat"},
        {"image": "a.png", "label": 2**40},
        {"image": "missing.png", "caption": "x"},
        {"image": "a\0.png", "caption": "x"},
        {"image": ".", "caption": "x"},
        ["not", "an", "object"],
    ]
    source = tmp_path / "in/list.jsonl"
    source.write_text("\n".join([*map(json.dumps, lines), "", "{not json"]))
    prepared = prepare(source, tmp_path / "out", **OPTIONS)
    assert prepared.used == {"image": 3}
    assert total(prepared) == 14
    assert prepared.first_skipped == {
        "line names no image": "list.jsonl:4",
        "neither caption nor label": "list.jsonl:5",
        "its caption is not text": "list.jsonl:6",
        "its label is not a whole number from 0": "list.jsonl:8",
        "image cannot be read: no such file or directory": "list.jsonl:10",
        "image has no possible path": "list.jsonl:11",
        "image cannot be read: not a regular file": "list.jsonl:12",
        "line is not JSON": "list.jsonl:15",
    }
    shards = Shards(tmp_path / "out")
    assert [shards.read(row).captions for row in range(3)] == [("one",), ("two", "three"), ()]
    assert shards.labels.tolist() == [-1, 4, 0]
    assert shards.key(1) == "a-2"


def test_a_name_that_is_not_utf8_does_not_stop_the_rest(tmp_path: Path):
    save(tmp_path / "in/a.png")
    (tmp_path / "in/a.txt").write_text("a")
    odd = os.fsencode(tmp_path / "in") + b"/\xff.png"
    Path(os.fsdecode(odd)).write_bytes((tmp_path / "in/a.png").read_bytes())
    Path(os.fsdecode(odd[:-3] + b"txt")).write_text("odd")
    assert prepare(tmp_path / "in", tmp_path / "out", **OPTIONS).samples == 2
    assert [Shards(tmp_path / "out").key(row) for row in (0, 1)] == ["a", "?"]


def test_a_crash_half_way_leaves_no_folder_and_the_next_run_works(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = set(os.listdir(tmp_path))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "no space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("pixart.preparation.prepare.build_index", full)
        with pytest.raises(OSError, match="no space"):
            prepare(photos, tmp_path / "out", **OPTIONS)
    assert set(os.listdir(tmp_path)) == before
    assert prepare(photos, tmp_path / "out", **OPTIONS).samples == 6
    assert set(os.listdir(tmp_path)) == {*before, "out"}


def test_wrong_places_are_refused_in_one_sentence(photos: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="neither a folder nor a"):
        prepare(tmp_path / "nowhere", tmp_path / "out", **OPTIONS)
    with pytest.raises(ValueError, match="exists already"):
        prepare(photos, photos.parent, **OPTIONS)
    with pytest.raises(ValueError, match="lies within source"):
        prepare(photos, photos / "out", **OPTIONS)
    with pytest.raises(ValueError, match="is not a file, which kind=jsonl needs"):
        prepare(photos, tmp_path / "out", **{**OPTIONS, "kind": "jsonl"})
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match=r"neither \.txt captions"):
        prepare(tmp_path / "bare", tmp_path / "out", **OPTIONS)


def test_a_source_without_a_usable_image_says_what_it_found(tmp_path: Path):
    (tmp_path / "in/cats").mkdir(parents=True)
    (tmp_path / "in/cats/1.png").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"nothing that can be used: 1 x image cannot be decoded \(as cats/1.png\)"):
        prepare(tmp_path / "in", tmp_path / "out", **OPTIONS)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_tool", ROOT / "tools/prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["tools/prepare.py", *arguments])
    with patch.dict(os.environ):
        os.environ.pop("HYDRA_FULL_ERROR", None)
        tool.door("prepare", tool.run)()


def test_the_door_prepares_and_prints_the_account(
    photos: Path, tmp_path: Path, tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    call(tool, monkeypatch, f"source={photos}", f"out={tmp_path / 'out'}", "shard_size=4")
    printed = capsys.readouterr().out
    assert "6 samples in 2 shards" in printed
    assert "no caption beside it" in printed
    assert "alone.png" in printed


def test_the_door_indexes_tars_where_they_are(
    photos: Path, tmp_path: Path, tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    prepare(photos, tmp_path / "out", **OPTIONS)
    before = read_index(tmp_path / "out").fingerprint
    (tmp_path / "out/index.parquet").unlink()
    call(tool, monkeypatch, f"source={tmp_path / 'out'}", "kind=tars", "workers=1")
    assert "6 samples in 2 shards" in capsys.readouterr().out
    assert read_index(tmp_path / "out").fingerprint == before
    call(tool, monkeypatch, f"source={tmp_path / 'out'}", f"out={tmp_path / 'index'}", "kind=tars", "workers=1")
    assert Shards(tmp_path / "index").read(0).captions == ("caption of a",)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "source is not set"),
        (["source=", "out=y"], "source is not set"),
        (["source=x", "out="], "out is empty"),
        (["/x", "/y"], "/x: this is no key=value"),
        (["source=a(b", "out=y"], "source=a(b: this is no key=value"),
        (["source=x"], "out is not set"),
        (["source=x", "out=y"], "neither a folder nor a .jsonl"),
        (["source=x", "out=y", "shard_size=0"], "shard_size"),
        (["source=x", "out=y", "kind=zip"], "kind"),
        (["source=x", "kind=tars", "workers=0"], "workers"),
        (["source=x", "kind=tars"], r"holds no .tar file"),
        (["source=s3://x/y", "kind=tars"], "out is not set"),
        (["source=x", "qualty=3"], "qualty"),
    ],
)
def test_the_door_answers_a_mistake_with_one_sentence_and_a_code(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
):
    with pytest.raises(SystemExit) as stop:
        call(tool, monkeypatch, *arguments)
    assert words in str(stop.value.code)
    assert "\n" not in str(stop.value.code)


def test_tars_and_pictures_given_for_one_another_are_told_the_other_command(photos: Path, tmp_path: Path):
    prepare(photos, tmp_path / "out", **OPTIONS)
    with pytest.raises(ValueError, match="holds tars already: index them where they are, with kind=tars"):
        prepare(tmp_path / "out", tmp_path / "again", **OPTIONS)
    with pytest.raises(ValueError, match=r"make one of your pictures: tools/prepare\.py source=.* out="):
        read_index(photos)
