"""Where nothing can be written is said before the examination, and what is written is whole."""

import json
from pathlib import Path

import pytest

from pixart.preparation.doctor import Examination
from pixart.preparation.doctor_places import check_places, write_json


def test_of_3_places_a_folder_one_below_a_file_and_a_damaged_quarantine_are_refused_by_key(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("{")
    check_places({"json": str(tmp_path / "new/a.json"), "page": None, "quarantine": str(tmp_path / "q.json")})
    for key, place, words in (
        ("json", tmp_path, "is a folder and no file"),
        ("page", tmp_path / "file/page.html", "cannot be written"),
        ("quarantine", tmp_path / "file", "is no JSON"),
    ):
        with pytest.raises(ValueError, match=rf"{key}.*{words}"):
            check_places({key: str(place)})
    assert (tmp_path / "file").read_text() == "{"


def test_1_file_is_written_and_none_is_left_beside_it(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", Examination({"data": "x"}))
    assert json.loads((tmp_path / "a.json").read_text())["would_train"] is True
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
