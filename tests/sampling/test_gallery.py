import numpy as np
import pytest

from pixart.sampling.gallery import write_gallery
from pixart.sampling.page import Result


def test_a_file_in_the_place_of_the_folder_is_refused_and_stays(tmp_path):
    (tmp_path / "out").write_text("precious")
    result = Result("00000.png", "a red circle", 0, 8, 8, 1.0, 1, "ddim", "a.pth")
    with pytest.raises(ValueError, match="out exists already and is no folder"):
        write_gallery(tmp_path / "out", [np.zeros((8, 8, 3), np.uint8)], [result], columns=1, title="")
    assert (tmp_path / "out").read_text() == "precious"
