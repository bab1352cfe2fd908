"""Laws of the pass over a tar: what the standard library finds is found, every byte is hashed, and damage is told."""

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pixart.data.storage.index import build_index
from pixart.data.storage.shards import Shards
from pixart.data.storage.tar_stream import TarStream
from pixart.data.storage.tars import describe_tar

NAMES = ["a/b.jpg", "0.txt", "d" * 60 + "/" + "e" * 90 + ".json"]
LONG = ["é.txt", "d" * 60 + "/" + "e" * 150 + ".json", "last.cls"]


def write(path: Path, names: list[str], format: int, **about: object) -> None:
    with tarfile.open(path, "w", format=format) as archive:
        for count, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = [0, 1, 511, 512, 513, 2000][count % 6]
            for key, value in about.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(bytes([count]) * info.size))
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)


@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize(
    ("format", "names", "about"),
    [
        (tarfile.USTAR_FORMAT, NAMES, {}),
        (tarfile.PAX_FORMAT, NAMES + LONG, {"mtime": 1.5}),
        (tarfile.GNU_FORMAT, NAMES + LONG, {"uid": 2**40}),
    ],
)
def test_the_members_of_three_kinds_of_tar_are_those_that_the_standard_library_finds(
    tmp_path: Path, hashed: bool, format: int, names: list[str], about: dict[str, object]
):
    path = tmp_path / "x.tar"
    write(path, names, format, **about)
    with tarfile.open(path) as archive:
        expected = [(m.name, m.offset_data, m.size) for m in archive.getmembers() if m.isfile()]
    assert len(expected) == len(names)
    with TarStream(path, hashed=hashed) as stream:
        assert [(name, *span) for name, span in stream.members()] == expected
        assert stream.sha256() == (hashlib.sha256(path.read_bytes()).hexdigest() if hashed else None)


def sample(row: int) -> dict[str, bytes]:
    return {f"{row}.jpg": bytes(700), f"{row}.json": b'{"height": 4, "width": 6}', f"{row}.txt": b"caption"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Three samples whose images are said to be of 4 x 6 pixels."""
    found = tmp_path / "a.tar"
    with tarfile.open(found, "w") as archive:
        for row in range(3):
            for name, data in sample(row).items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return found


def test_a_checksum_is_over_image_caption_and_json_in_that_order(path: Path):
    described = describe_tar(path, checksums=True)
    members = sample(0)
    assert described.samples[0].checksum == zlib.crc32(members["0.jpg"] + members["0.txt"] + members["0.json"])
    assert described.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_without_checksums_the_same_is_described_whatever_an_image_holds_beside_its_metadata(path: Path):
    with_them, without = (describe_tar(path, checksums=checksums) for checksums in (True, False))
    assert [sample._replace(checksum=0) for sample in with_them.samples] == list(without.samples)
    assert without.sha256 is None
    data = path.read_bytes()
    span = without.samples[1].spans["image"]
    path.write_bytes(data[: span.offset] + b"?" * span.size + data[span.offset + span.size :])
    assert describe_tar(path, checksums=False) == without


@pytest.mark.parametrize("checksums", [False, True])
@pytest.mark.parametrize("cut", [0, 100, 512, 700, 5 * 512 + 10, 15 * 512, 18 * 512])
def test_a_tar_that_ends_before_its_closing_block_is_truncated(path: Path, cut: int, checksums: bool):
    data = path.read_bytes()
    assert data[24 * 512 :] == bytes(len(data) - 24 * 512)
    path.write_bytes(data[:cut])
    with pytest.raises(ValueError, match=r"a\.tar is truncated or no tar"):
        describe_tar(path, checksums=checksums)


@given(place=st.integers(0, 511), value=st.integers(0, 255))
def test_any_byte_of_a_header_that_is_changed_is_told_or_changes_nothing(place: int, value: int):
    """The sum that a header states finds every change of one byte, of the sum itself too."""
    block = tarfile.TarInfo("a/name.txt").tobuf(tarfile.USTAR_FORMAT)
    changed = block[:place] + bytes([value]) + block[place + 1 :]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.tar"
        path.write_bytes(changed + bytes(1024))
        told = nullcontext() if changed == block else suppress(ValueError)
        with told, TarStream(path, hashed=False) as stream:
            assert list(stream.members()) == [("a/name.txt", (512, 0))]


@pytest.mark.parametrize("size", [b"-0000000001\0", b"\xff" * 12, b"9", b"77777777777\0"])
def test_a_size_that_is_none_or_beyond_the_file_is_damage(tmp_path: Path, size: bytes):
    block = bytearray(tarfile.TarInfo("a.txt").tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = size.ljust(12, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (tmp_path / "a.tar").write_bytes(block + bytes(1024))
    with pytest.raises(ValueError, match="is truncated or no tar"):
        describe_tar(tmp_path / "a.tar", checksums=False)


def test_a_member_of_two_gibibytes_is_skipped_and_what_follows_it_is_not(tmp_path: Path):
    path = tmp_path / "a.tar"
    large = tarfile.TarInfo("0.jpg")
    large.size = 2**31
    small = tarfile.TarInfo("1.txt")
    small.size = 1
    with path.open("wb") as file:
        file.write(large.tobuf())
        file.seek(large.size, 1)  # takes no room on the disk
        file.write(small.tobuf() + b"x".ljust(512, b"\0") + bytes(1024))
    described = describe_tar(path, checksums=False)
    assert described.skipped == (("0", "a member of 2 GiB or more"), ("1", "no image"))


def test_a_pax_record_of_the_wrong_length_is_damage(tmp_path: Path):
    for records in (b"0 path=x\n", b"99 path=x\n", b"path", b"11 size=ab\n"):
        with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            info = tarfile.TarInfo("PaxHeader")
            info.type, info.size = b"x", len(records)
            archive.addfile(info, io.BytesIO(records))
            archive.addfile(tarfile.TarInfo("a.txt"))
        with pytest.raises(ValueError, match="is truncated or no tar"):
            describe_tar(tmp_path / "a.tar", checksums=False)


def _concatenated(data: bytes) -> bytes:
    return data + data.replace(b".jpg", b".png")


def _with_a_hole(data: bytes) -> bytes:
    return data[: 7 * 512] + bytes(512) + data[8 * 512 :]  # where the header of the second sample stood


def _ended_early(data: bytes) -> bytes:
    return data + bytes(3 * 2**20) + b"x"


@pytest.mark.parametrize("checksums", [False, True])
@pytest.mark.parametrize("damage", [_concatenated, _with_a_hole, _ended_early])
def test_a_tar_that_goes_on_after_its_end_is_refused_and_loses_no_sample_silently(
    path: Path, damage: Callable[[bytes], bytes], checksums: bool
):
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"a\.tar goes on after its end: it was concatenated, has a hole or"):
        describe_tar(path, checksums=checksums)


def test_5000_blocks_of_zeros_are_room_that_was_never_written_and_not_an_end(path: Path):
    path.write_bytes(path.read_bytes()[: 21 * 512] + bytes(512 * 5000))
    with pytest.raises(ValueError, match=r"a\.tar goes on after its end: .* or was never written to its end"):
        describe_tar(path, checksums=False)


@pytest.mark.parametrize("blocks", [1, 2, 2000])
def test_up_to_a_mebibyte_of_zeros_ends_a_tar(path: Path, blocks: int):
    path.write_bytes(path.read_bytes()[: 21 * 512] + bytes(512 * blocks))
    for checksums in (False, True):
        assert len(describe_tar(path, checksums=checksums).samples) == 3


def packed(path: Path, members: list[tuple[str, bytes]], **about: str) -> Path:
    """A tar of ``members``, of which two may have one name."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, **about) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("again", ["0.jpg", "0.png", "0.txt"])
def test_a_sample_with_two_members_of_one_kind_is_skipped_with_the_reason(tmp_path: Path, again: str):
    members = [*sample(0).items(), (again, b"another"), *sample(1).items()]
    described = describe_tar(packed(tmp_path / "a.tar", members), checksums=True)
    assert [found.key for found in described.samples] == ["1"]
    assert described.skipped == (("0", "two of its members are of one kind"),)


def test_two_names_that_are_not_utf_8_are_two_samples_and_refused_where_they_would_share_a_key(tmp_path: Path):
    about = b'{"height": 4, "width": 6, "label": 1}'
    names = ["\xe9", "m"]
    members = [(f"{name}.{kind}", data) for name in names for kind, data in (("jpg", b"?"), ("json", about))]
    path = packed(tmp_path / "a.tar", members, encoding="latin-1")
    assert [found.key for found in describe_tar(path, checksums=True).samples] == ["\ufffd", "m"]
    members += [("\xe8.jpg", b"?"), ("\xe8.json", about)]
    for order in (members, members[:2] + members[4:]):
        path = packed(tmp_path / "a.tar", order, encoding="latin-1")
        with pytest.raises(ValueError, match="stands twice"):
            describe_tar(path, checksums=True)


CAPTIONS = [
    (b"in txt", {"captions": []}, ("in txt",)),
    (b"in txt", {"captions": [None, " \n"]}, ("in txt",)),
    (b"in txt", {"captions": [None, "a", "", "b"]}, ("a", "b")),
    (b"in txt", {"captions": ["only"]}, ("only",)),
    (b" \n", {"caption": "in json"}, ("in json",)),
    (b"in txt", {"caption": {"x": 1}}, ("in txt",)),
    (b"", {"caption": "  "}, "neither caption nor label"),
    (b"", {"caption": None}, "neither caption nor label"),
    (b"", {"caption": 7}, "its caption is not text"),
    (b"in txt", {"captions": ["a", {"b": 1}]}, "its caption is not text"),
    (b"", {"captions": ["a", "\ud800 b"]}, "its caption is not text"),
]


@pytest.mark.parametrize(("text", "about", "expected"), CAPTIONS)
def test_captions_that_are_null_or_blank_count_for_nothing_and_what_is_no_text_is_a_reason(
    tmp_path: Path, text: bytes, about: dict[str, object], expected: str | tuple[str, ...]
):
    about = {"height": 4, "width": 6, **about}
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4)).save(buffer, format="PNG")
    members = [("0.png", buffer.getvalue()), ("0.txt", text), ("0.json", json.dumps(about).encode())]
    packed(tmp_path / "a.tar", members)
    described = describe_tar(tmp_path / "a.tar", checksums=True)
    if isinstance(expected, str):
        assert described.skipped == (("0", expected),)
    else:
        assert described.samples[0].captions == expected
        build_index(tmp_path)
        assert Shards(tmp_path).read(0).captions == expected
