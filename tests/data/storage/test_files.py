"""Laws of reading shards through faults: what passes changes nothing, one bad sample is named, the rest is loud."""

import errno
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixart.data.source import BadSample
from pixart.data.storage import files
from pixart.data.storage.index import build_index
from pixart.data.storage.shards import Encoded, Shards, write_shards


def png(row: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (row, 0, 0)).save(buffer, format="PNG")
    return buffer.getvalue()


def tar(path: Path, members: dict[str, bytes]) -> None:
    """A tar as other programs write it."""
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Seven samples in three tars."""
    about = {"height": 4, "width": 6}
    rows = (Encoded(f"{row:03d}", "png", png(row), (f"caption {row}", "é"), row % 3, about) for row in range(7))
    write_shards(tmp_path, rows, shard_size=3)
    build_index(tmp_path)
    return tmp_path


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_PAUSE", 0.001)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("was_read", [False, True])
def test_a_tar_truncated_after_it_was_opened_is_one_sentence_and_no_bad_sample(root: Path, was_read: bool):
    shards = Shards(root)
    if was_read:
        shards.read(2)
    with (root / "000000.tar").open("r+b") as file:
        file.truncate(600)
    with pytest.raises(ValueError, match=r"000000\.tar has 600 bytes where the index expects \d+, so it was") as error:
        shards.read(2)
    assert not isinstance(error.value, BadSample)
    assert shards.read(5).key == "005"


@pytest.mark.usefixtures("hasty")
def test_a_tar_taken_away_while_training_is_one_sentence_once_it_is_opened_anew(root: Path):
    shards = Shards(root)
    shards.read(0)
    (root / "000000.tar").unlink()
    assert shards.read(2).key == "002"  # it is open, so it is still there
    shards._files.forget(0)
    with pytest.raises(ValueError, match=r"^\S+000000\.tar is missing: bring it back$") as error:
        shards.read(2)
    assert not isinstance(error.value, BadSample)


def overwrite(path: Path, old: bytes, new: bytes) -> None:
    path.write_bytes(path.read_bytes().replace(old, new))


@pytest.mark.parametrize("old", [b"IDAT", b"caption 1"])
def test_flipped_bytes_are_a_bad_sample_named_by_its_key_and_its_neighbours_are_read(root: Path, old: bytes):
    path, shards = root / "000000.tar", Shards(root)
    data = path.read_bytes()
    place = data.index(old, data.index(b"001.png"))
    path.write_bytes(data[:place] + b"~" + data[place + 1 :])
    with pytest.raises(BadSample, match=r"^001: its bytes are not those that were indexed$") as error:
        shards.read(1)
    assert (error.value.key, error.value.reason) == ("001", "its bytes are not those that were indexed")
    assert [shards.read(row).key for row in (0, 2)] == ["000", "002"]


def test_without_verification_only_what_cannot_be_decoded_is_bad(root: Path):
    overwrite(root / "000000.tar", b"\x89PNG", b"junk")
    overwrite(root / "000001.tar", b"caption 4", b"caption !")
    shards = Shards(root, verify=False)
    with pytest.raises(BadSample, match=r"^001: the image cannot be decoded"):
        shards.read(1)
    assert shards.read(4).captions[0] == "caption !"
    with pytest.raises(BadSample, match="004: its bytes are not"):
        Shards(root).read(4)


def test_text_that_cannot_be_decoded_is_bad_too(tmp_path: Path):
    tar(tmp_path / "a.tar", {"0.png": png(0), "0.txt": b"abcd"})
    build_index(tmp_path)
    overwrite(tmp_path / "a.tar", b"abcd", b"\xff\xfe\xff\xfe")
    with pytest.raises(BadSample, match=r"^0: its \.txt or \.json cannot be read"):
        Shards(tmp_path, verify=False).read(0)


def test_another_tar_of_equal_size_is_one_sentence_and_no_bad_sample(tmp_path: Path):
    tar(tmp_path / "a.tar", {"0.png": png(0), "0.txt": b"x", "1.png": png(1), "1.txt": b"x"})
    build_index(tmp_path)
    shards = Shards(tmp_path)
    assert shards.read(1).key == "1"
    tar(tmp_path / "a.tar", {"2.png": png(2), "2.txt": b"x", "3.png": png(3), "3.txt": b"x"})
    with pytest.raises(ValueError, match=r"a\.tar was replaced or overwritten after it was indexed: 1 is not") as error:
        shards.read(1)
    assert not isinstance(error.value, BadSample)


def test_a_tar_overwritten_with_zeros_is_one_sentence_and_no_bad_sample(root: Path):
    path = root / "000000.tar"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(ValueError, match=r"000000\.tar was replaced or overwritten") as error:
        Shards(root).read(1)
    assert not isinstance(error.value, BadSample)


def test_names_longer_than_a_header_and_keys_led_by_their_shard_are_told_from_another_tar(tmp_path: Path):
    for name in ("a", "b"):
        tar(tmp_path / f"{name}.tar", {f"{'d' * 120}/0.png": png(0), f"{'d' * 120}/0.txt": b"abcd",
                                       "1.png": png(1), "1.txt": b"abcd"})  # fmt: skip
    build_index(tmp_path)
    overwrite(tmp_path / "b.tar", b"abcd", b"dcba")
    for row in (2, 3):
        with pytest.raises(BadSample, match="its bytes are not those"):
            Shards(tmp_path).read(row)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_errors_of_the_disk_that_pass_are_retried_on_the_file_opened_anew(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    shards, expected = Shards(root), Shards(root).read(4)
    shards.read(4)
    plain, failures = os.pread, iter([True, True, False])

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        if next(failures, False):
            raise OSError(number, os.strerror(number))
        return plain(descriptor, size, offset)

    monkeypatch.setattr(files.os, "pread", pread)
    np.testing.assert_array_equal(shards.read(4).image, expected.image)


@pytest.mark.usefixtures("hasty")
def test_a_disk_that_keeps_failing_is_one_sentence_and_no_bad_sample(root: Path, monkeypatch: pytest.MonkeyPatch):
    def pread(*_: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    shards = Shards(root)
    monkeypatch.setattr(files.os, "pread", pread)
    with pytest.raises(ValueError, match=r"000001\.tar could not be read in 5 attempts .*Input/output") as error:
        shards.read(4)
    assert not isinstance(error.value, BadSample)


def test_a_sample_is_read_with_one_call_where_its_members_lie_together(root: Path, monkeypatch: pytest.MonkeyPatch):
    shards, calls, plain = Shards(root), [], os.pread
    shards.read(0)
    monkeypatch.setattr(files.os, "pread", lambda *where: calls.append(where) or plain(*where))
    shards.read(1)
    assert len(calls) == 1


def test_members_far_apart_are_read_on_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tar(tmp_path / "a.tar", {"0.png": png(0), "0.seg.npy": bytes(100_000), "0.txt": b"far", "0.cls": b"3"})
    build_index(tmp_path)
    shards, sizes, plain = Shards(tmp_path), [], os.pread
    monkeypatch.setattr(files.os, "pread", lambda *where: sizes.append(where[1]) or plain(*where))
    sample = shards.read(0)
    assert (sample.captions, sample.label, sample.image.shape) == (("far",), 3, (4, 6, 3))
    assert sum(sizes) < 1000
