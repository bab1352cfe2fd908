import numpy as np
import pytest
from PIL import Image

from pixart.sampling.gallery import write_gallery
from pixart.sampling.page import Result


def test_a_file_in_the_place_of_the_folder_is_refused_and_stays(tmp_path):
    (tmp_path / "out").write_text("precious")
    result = Result("00000.png", "a red circle", 0, 8, 8, 1.0, 1, "ddim", "a.pth", {})
    with pytest.raises(ValueError, match="out exists already and is no folder"):
        write_gallery(tmp_path / "out", [np.zeros((8, 8, 3), np.uint8)], [result], columns=1, title="")
    assert (tmp_path / "out").read_text() == "precious"


def gallery(folder, count: int) -> None:
    results = [Result(f"{i:05d}.png", "a red circle", i, 8, 8, 1.0, 1, "ddim", "a.pth", {}) for i in range(count)]
    write_gallery(folder, [np.zeros((8, 8, 3), np.uint8)] * count, results, columns=1, title="")


def test_the_2_pictures_that_a_smaller_gallery_lacks_go_and_1_of_somebody_else_stays(tmp_path):
    gallery(tmp_path, 3)
    Image.new("RGB", (8, 8)).save(tmp_path / "00009.png")
    gallery(tmp_path, 1)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["00000.png", "00009.png", "grid.png"]


def test_0_files_go_that_a_foreign_results_file_names(tmp_path):
    (tmp_path / "precious.png").touch()
    (tmp_path / "results.jsonl").write_text('{"file": "precious.png"}\n{"file": "../x.png"}\n')
    gallery(tmp_path, 1)
    assert (tmp_path / "precious.png").exists()
    (tmp_path / "results.jsonl").write_text("[1]\nno JSON")
    gallery(tmp_path, 1)
