"""Laws of putting bad samples away: none is lost, none is added twice, and each addition is a version."""

import json
from pathlib import Path

import pytest

from pixart.data.storage.quarantine import read_quarantine
from pixart.preparation.doctor_quarantine import met_by, put_away


def test_2_keys_are_version_1_and_a_third_makes_version_2(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    assert "version 1, samples left out: 2, new: 2" in put_away(path, {"a": "checksum", "b": "half an image"})
    assert "version 1, samples left out: 2, new: 0" in put_away(path, {"b": "another reason"})
    assert "version 2, samples left out: 3, new: 1" in put_away(path, {"b": "x", "c": "checksum"})
    assert read_quarantine(path).keys == {"a": "checksum", "b": "half an image", "c": "checksum"}


def test_0_bad_samples_write_no_file(tmp_path: Path) -> None:
    assert "no bad sample was found" in put_away(tmp_path / "bad.json", {})
    assert not (tmp_path / "bad.json").exists()


def test_a_run_tells_the_2_keys_it_met_and_half_a_line_is_left_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no config\.yaml: give the directory of a run"):
        met_by(tmp_path)
    (tmp_path / "config.yaml").write_text("")
    assert met_by(tmp_path) == {}
    lines = [{"step": 3, "k": 3, "position": 1, "key": key, "reason": "checksum"} for key in ("a", "b", "a")]
    (tmp_path / "bad_samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "k"')
    assert met_by(tmp_path) == {"a": "checksum", "b": "checksum"}


@pytest.mark.parametrize(
    "line",
    [b"hello", b"[1]", b"3", b'{"key": "a"}', b'{"key": 1, "reason": null}', b"\xff\xfe", b"[" * 100_000, b""],
)
def test_a_damaged_line_2_is_named_with_its_file(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "config.yaml").write_text("")
    (tmp_path / "bad_samples.jsonl").write_bytes(b'{"key": "a\xe2\x80\xa8b", "reason": "r"}\n' + line + b"\n")
    with pytest.raises(ValueError, match=r"bad_samples\.jsonl, line 2 is not what a run writes"):
        met_by(tmp_path)
