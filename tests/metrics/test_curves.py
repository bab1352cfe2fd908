import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pixart.metrics.curves import as_markdown, as_svg, reached, read_curve, saving

FRESH = {0: 1.0, 100: 0.5, 200: 0.25}
AHEAD = {0: 0.5, 100: 0.25, 200: 0.2}


def test_a_value_is_reached_between_2_points_in_proportion() -> None:
    assert reached(FRESH, 0.75) == 50
    assert reached(FRESH, 0.25) == 200
    assert reached(FRESH, 2.0) == 0
    assert reached(FRESH, 0.1) is None


def test_a_start_that_is_100_steps_ahead_saves_100_and_the_other_loses_100() -> None:
    assert saving(AHEAD, FRESH) == 100
    assert saving(FRESH, AHEAD) == -100
    assert saving(FRESH, FRESH) == 0


def test_the_table_has_a_row_a_step_and_the_saving_below() -> None:
    lines = as_markdown({"fresh": FRESH, "ahead": {0: 0.5, 100: 0.25}}, key="loss", against="fresh").splitlines()
    assert lines[2] == "| step | fresh | ahead |"
    assert lines[-2] == "| 200 | 0.2500 |  |"
    assert lines[-1] == "| steps saved against fresh | 0 | 100 |"


def test_the_picture_is_an_svg_with_1_line_a_run() -> None:
    root = ElementTree.fromstring(as_svg({"a<b": FRESH, "c": AHEAD}, key="loss"))
    assert len(root.findall("{http://www.w3.org/2000/svg}polyline")) == 2


def test_a_key_is_read_off_the_lines_that_have_it(tmp_path: Path) -> None:
    lines = [{"step": 0, "loss": 1.0}, {"step": 5, "other": 2.0}, {"step": 9, "loss": 0.5}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    assert read_curve(tmp_path, "loss") == {0: 1.0, 9: 0.5}
    with pytest.raises(ValueError, match="has no 'mse'"):
        read_curve(tmp_path, "mse")
    with pytest.raises(ValueError, match=r"holds no metrics\.jsonl"):
        read_curve(tmp_path / "none", "loss")
