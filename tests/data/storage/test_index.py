"""Laws of the index: every sample of a tar is in it or named, it is mapped and not read, and damage is one sentence."""

import hashlib
import io
import json
import tarfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pixart.data.storage.index import INDEX_NAME, MAP_NAME, build_index, digests_of, read_index
from pixart.data.storage.index_map import write_map
from pixart.data.storage.shards import Shards


def png(row: int, height: int = 4, width: int = 6) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (row, 0, 0)).save(buffer, format="PNG")
    return buffer.getvalue()


def tar(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    """A tar as other programs write it."""
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def sample(row: int) -> dict[str, bytes]:
    return {f"{row:03d}.png": png(row), f"{row:03d}.txt": b"caption", f"{row:03d}.cls": str(row % 3).encode()}


def flipped(data: bytes, place: int) -> bytes:
    """One bit of one byte turned."""
    return data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Seven samples in three tars."""
    for shard, rows in enumerate([range(3), range(3, 6), [6]]):
        tar(tmp_path / f"{shard:06d}.tar", {name: data for row in rows for name, data in sample(row).items()})
    build_index(tmp_path)
    return tmp_path


def test_every_member_lies_where_its_columns_say_and_has_the_checksum_they_say(root: Path):
    index = read_index(root)
    assert [shard.name for shard in index.shards] == ["000000.tar", "000001.tar", "000002.tar"]
    assert index.columns["shard"].tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert index.keys.to_pylist() == [f"{row:03d}" for row in range(7)]
    assert index.columns["label"].tolist() == [0, 1, 2, 0, 1, 2, 0]
    for row in range(7):
        data = (root / index.shards[index.columns["shard"][row]].name).read_bytes()
        members = []
        for member in ("image", "text", "cls"):
            offset, size = (index.columns[f"{member}_{what}"][row] for what in ("offset", "size"))
            members.append(data[offset : offset + size])
        assert members == list(sample(row).values())
        assert index.columns["checksum"][row] == zlib.crc32(b"".join(members))
        assert index.columns["json_size"][row] == index.columns["features_size"][row] == 0


def test_each_shard_is_in_the_index_with_its_bytes_and_sha256(root: Path):
    for name, size, sha256 in read_index(root).shards:
        data = (root / name).read_bytes()
        assert (size, sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_the_columns_are_mapped_from_the_disk_and_cannot_be_written_to(root: Path):
    index = read_index(root)
    assert set(index.columns) == set(pq.read_schema(root / INDEX_NAME).names) - {"key"}
    for column in index.columns.values():
        assert not column.flags.owndata
        assert not column.flags.writeable


def test_the_map_is_made_again_of_the_parquet_where_it_is_missing_cut_or_anothers(root: Path, tmp_path_factory):
    table = pq.read_table(root / INDEX_NAME)
    whole = (root / MAP_NAME).read_bytes()
    other = tmp_path_factory.mktemp("other")
    tar(other / "0.tar", sample(1))
    build_index(other)
    (root / MAP_NAME).unlink()
    for damage in (None, whole[:-100], b"", (other / MAP_NAME).read_bytes()):
        if damage is not None:
            (root / MAP_NAME).write_bytes(damage)
        index = read_index(root)
        assert index.keys.to_pylist() == table["key"].to_pylist()
        for name, column in index.columns.items():
            np.testing.assert_array_equal(column, table[name].to_numpy())
        assert (root / MAP_NAME).read_bytes() == whole
    assert sorted(path.name for path in root.iterdir()) == sorted(
        ["000000.tar", "000001.tar", "000002.tar", INDEX_NAME, MAP_NAME]
    )


def test_a_flipped_bit_anywhere_in_the_map_is_mended_from_the_parquet(root: Path):
    expected, whole = read_index(root), (root / MAP_NAME).read_bytes()
    assert whole[-10:-4] == b"ARROW1"
    for place in range(0, len(whole), 97):
        (root / MAP_NAME).write_bytes(flipped(whole, place))
        index = read_index(root)
        assert index.keys.equals(expected.keys)
        for name, column in index.columns.items():
            np.testing.assert_array_equal(column, expected.columns[name])
        assert (root / MAP_NAME).read_bytes() == whole


@pytest.mark.parametrize("writable", [True, False])
def test_a_flipped_bit_anywhere_in_the_parquet_is_one_sentence_or_changes_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, writable: bool
):
    def read_only(*_: object) -> None:
        raise OSError(30, "read-only file system")

    if not writable:
        monkeypatch.setattr("pixart.data.storage.index.write_map", read_only)
    expected, whole = read_index(root), (root / INDEX_NAME).read_bytes()
    told = []
    for place in range(0, len(whole), 23):
        (root / INDEX_NAME).write_bytes(flipped(whole, place))
        (root / MAP_NAME).unlink(missing_ok=True)
        try:
            index = read_index(root)
        except ValueError as error:
            told.append(str(error))
            continue
        assert (index.keys.to_pylist(), index.fingerprint) == (expected.keys.to_pylist(), expected.fingerprint)
        for name, column in index.columns.items():
            np.testing.assert_array_equal(column, expected.columns[name])
    assert 100 < len(told) < len(whole) // 23
    assert all("run tools/prepare.py kind=tars" in sentence for sentence in told)


def test_what_the_parquet_says_of_its_shards_is_checked_though_the_map_is_whole(root: Path):
    data = (root / INDEX_NAME).read_bytes()
    at = data.index(b'"checksums": true')
    (root / INDEX_NAME).write_bytes(data[:at] + b'"checksums":false' + data[at + 17 :])
    with pytest.raises(ValueError, match="is damaged or no index"):
        read_index(root)


def test_of_four_that_open_an_index_without_a_map_one_makes_it(root: Path, monkeypatch: pytest.MonkeyPatch):
    (root / MAP_NAME).unlink()
    made: list[Path] = []

    def slow(parquet: Path, to: Path) -> None:
        made.append(to)
        time.sleep(0.2)
        write_map(parquet, to)

    monkeypatch.setattr("pixart.data.storage.index.write_map", slow)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(read_index, [root] * 4))
    assert made == [root / MAP_NAME]
    assert [index.columns["height"].tolist() for index in found] == [[4] * 7] * 4


def test_an_index_that_is_replaced_while_it_is_opened_is_one_sentence(root: Path, monkeypatch: pytest.MonkeyPatch):
    (root / MAP_NAME).unlink()

    def replaced(parquet: Path, to: Path) -> None:
        build_index(root, stamps={"another": "index"})
        write_map(parquet, to)

    monkeypatch.setattr("pixart.data.storage.index.write_map", replaced)
    with pytest.raises(ValueError, match="was replaced while it was opened"):
        read_index(root)


def test_an_index_whose_folder_cannot_be_written_to_is_read_into_memory(root: Path, monkeypatch: pytest.MonkeyPatch):
    (root / MAP_NAME).unlink()

    def read_only(*_: object) -> None:
        raise OSError(30, "read-only file system")

    monkeypatch.setattr("pixart.data.storage.index.write_map", read_only)
    assert read_index(root).columns["height"].tolist() == [4] * 7


def test_a_digest_is_the_first_eight_bytes_of_the_keys_sha256(root: Path):
    index = read_index(root)
    expected = [int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") for key in index.keys.to_pylist()]
    assert index.digests.tolist() == digests_of(index.keys.to_pylist()).tolist() == expected
    assert index.digests.dtype == np.uint64


def test_tars_of_img2dataset_are_indexed_in_place_with_every_sample_read_or_named(tmp_path: Path):
    stated = json.dumps({"height": 4, "width": 6, "caption": "from json", "status": "success"}).encode()
    tar(tmp_path / "00000.tar", {
        "000.png": png(0), "000.txt": b"from txt", "000.json": stated,
        "001.png": png(1), "001.json": stated,
        "002.PNG": png(2, 9, 5), "002.txt": b"measured",
        "003.txt": b"no picture",
        "004.png": b"no picture either", "004.txt": b"x",
        "005.png": png(5),
        "006.png": png(6), "006.txt": b"\xff\xfe", "006.json": b"{}",
        "007.png": png(7), "007.txt": b"x", "007.json": b"[1]",
        "009.png": b"", "009.json": stated,
        "010.png": png(10), "010.json": b'{"caption": ' + b"[" * 100_000,
        "a/008.seg.png": png(8), "a/008.png": png(8), "a/008.cls": b"4",
        "a/._008.png": b"of a Macintosh", "a/._009.png": b"of a Macintosh",
    })  # fmt: skip
    (tmp_path / "00000_stats.json").write_text("{}")
    (tmp_path / "00000.parquet").write_bytes(b"of img2dataset")
    found = build_index(tmp_path)
    assert (found.rows, found.shards) == (4, 1)
    lines = [line.split("\t") for line in (tmp_path / "index.skipped.tsv").read_text().splitlines()]
    assert [json.loads(name) for _, name in lines] == [
        *(f"00000.tar: {i:03d}" for i in (3, 4, 5, 6, 7, 9, 10)),
        "00000.tar: a/",
    ]
    assert found.skipped == {
        "no image": 2,
        "its image cannot be read": 1,
        "neither caption nor label": 1,
        "its .txt, .json or .cls cannot be read": 3,
        "its name begins with a dot": 1,
    }
    assert found.first_skipped["no image"] == "00000.tar: 003"
    shards = Shards(tmp_path)
    assert [shards.key(row) for row in range(4)] == ["000", "001", "002", "a/008"]
    assert [shards.read(row).captions for row in range(4)] == [("from txt",), ("from json",), ("measured",), ()]
    assert shards.labels.tolist() == [-1, -1, -1, 4]
    assert (shards.heights[2], shards.widths[2]) == (9, 5)
    assert (tmp_path / "00000.parquet").read_bytes() == b"of img2dataset"


@pytest.mark.parametrize("checksums", [True, False])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_an_image_that_its_metadata_turns_is_measured_whatever_its_json_says(
    tmp_path: Path, format: str, checksums: bool
):
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4)).save(buffer, format=format, exif=exif)
    about = json.dumps({"height": 4, "width": 6, "caption": "lying"}).encode()
    tar(tmp_path / "a.tar", {"0.jpg": buffer.getvalue(), "0.json": about, "1.jpg": png(1), "1.json": about})
    build_index(tmp_path, checksums=checksums)
    shards = Shards(tmp_path)
    assert [(shards.heights[row], shards.widths[row]) for row in (0, 1)] == [(6, 4), (4, 6)]
    assert shards.read(0).image.shape == (6, 4, 3)


def test_a_sample_of_features_needs_no_image_but_the_size_it_had(tmp_path: Path):
    about = json.dumps({"height": 40, "width": 60}).encode()
    tar(tmp_path / "a.tar", {
        "0.features.safetensors": b"12345", "0.json": about,
        "1.features.safetensors": b"123",
    })  # fmt: skip
    found = build_index(tmp_path, stamps={"text": "T5 of 1b"})
    assert (found.rows, list(found.skipped)) == (1, ["its .json does not say the height and width of its image"])
    index = read_index(tmp_path)
    assert (index.columns["height"][0], index.columns["width"][0]) == (40, 60)
    assert (index.columns["features_size"][0], index.columns["image_size"][0]) == (5, 0)
    assert index.columns["checksum"][0] == zlib.crc32(about + b"12345")
    assert index.stamps == {"text": "T5 of 1b"}


def test_indexing_anew_keeps_the_stamps_and_other_stamps_are_another_fingerprint(root: Path):
    plain = read_index(root)
    build_index(root, stamps={"text": "one"})
    stamped = read_index(root)
    build_index(root)
    assert read_index(root).stamps == {"text": "one"}
    assert read_index(root).fingerprint == stamped.fingerprint != plain.fingerprint
    assert plain.stamps == {}


def test_keys_that_repeat_are_led_by_the_shards_name_after_the_first(tmp_path: Path):
    for name in ("a", "b"):
        tar(tmp_path / f"{name}.tar", {"0.png": png(0), "0.txt": b"x"})
    build_index(tmp_path)
    index = read_index(tmp_path)
    assert index.keys.to_pylist() == ["0", "b/0"]
    assert index.digests.tolist() == digests_of(["0", "b/0"]).tolist()


def test_a_key_twice_in_one_tar_is_refused(tmp_path: Path):
    tar(tmp_path / "a.tar", {"0.png": png(0), "0.txt": b"x", "1.png": png(1), "1.txt": b"x"})
    tar(tmp_path / "a.tar", {"0.png": png(0), "0.txt": b"x"}, mode="a")
    with pytest.raises(ValueError, match="a/0 stands twice"):
        build_index(tmp_path)


def test_a_changed_byte_is_another_fingerprint_unless_checksums_are_off(root: Path):
    path = root / "000001.tar"
    before = read_index(root)
    build_index(root, checksums=False)
    unchecked = read_index(root)
    assert (before.checksums, unchecked.checksums) == (True, False)
    assert unchecked.shards[0].sha256 is None
    assert not unchecked.columns["checksum"].any()
    data = path.read_bytes()
    path.write_bytes(data.replace(b"caption", b"kaption", 1))
    build_index(root, checksums=False)
    assert read_index(root).fingerprint == unchecked.fingerprint
    build_index(root)
    assert read_index(root).fingerprint != before.fingerprint
    path.write_bytes(data)
    build_index(root)
    assert read_index(root).fingerprint == before.fingerprint


def test_a_folder_without_tars_or_without_usable_samples_cannot_be_indexed(tmp_path: Path):
    with pytest.raises(ValueError, match=r"holds no \.tar file"):
        build_index(tmp_path)
    tar(tmp_path / "a.tar", {"0.txt": b"x"})
    with pytest.raises(ValueError, match="none of the 1 samples"):
        build_index(tmp_path)


def _truncate(root: Path) -> None:
    path = root / "000001.tar"
    path.write_bytes(path.read_bytes()[:-1])


def _rewrite_version(root: Path) -> None:
    table = pq.read_table(root / INDEX_NAME)
    about = json.dumps({"version": 1}).encode()
    pq.write_table(table.replace_schema_metadata({b"pixart": about}), root / INDEX_NAME)


def _cut_body(root: Path) -> None:
    data = (root / INDEX_NAME).read_bytes()
    (root / INDEX_NAME).write_bytes(data[:4] + bytes(500) + data[504:])
    (root / MAP_NAME).unlink()


DAMAGE = {
    "index.parquet is missing": lambda root: (root / INDEX_NAME).unlink(),
    "index.parquet is damaged or": lambda root: (root / INDEX_NAME).write_bytes(b"PAR1 and no more"),
    "index.parquet is damaged": _cut_body,
    "of version 1 and": _rewrite_version,
    "000001.tar has": _truncate,
    "000002.tar is missing": lambda root: (root / "000002.tar").unlink(),
    "new.tar is not in": lambda root: tar(root / "new.tar", {"0.txt": b"x"}),
}


@pytest.mark.parametrize("words", DAMAGE)
def test_an_index_that_does_not_fit_its_tars_is_one_sentence_with_the_mend(root: Path, words: str):
    DAMAGE[words](root)
    with pytest.raises(ValueError, match=words) as error:
        read_index(root)
    assert f"run tools/prepare.py kind=tars source={root}" in str(error.value)
    assert "\n" not in str(error.value)
