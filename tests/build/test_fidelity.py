"""The table of differences names options that exist."""

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from miniature import composed
from omegaconf import OmegaConf

from pixart.config import Config, SampleConfig, parse
from pixart.data.buckets import official_bins, official_buckets
from pixart.door import CONFIGS

TABLE = Path(__file__).resolve().parents[2] / "docs" / "fidelity.md"
ROWS = [
    [cell.strip() for cell in line.strip("|\n").split("|")]
    for line in TABLE.read_text(encoding="utf-8").splitlines()
    if line.startswith("|")
]
OPTIONS = sorted({option for row in ROWS for option in re.findall(r"`((?:sample|train)\.py [^`]+)`", row[-1])})


TRAINED = """
    512x2048 512x1984 512x1920 512x1856 576x1792 576x1728 576x1664 640x1600 640x1536 704x1472 704x1408 704x1344
    768x1344 768x1280 832x1216 832x1152 896x1152 896x1088 960x1088 960x1024 1024x1024 1024x960 1088x960 1088x896
    1152x896 1152x832 1216x832 1280x768 1344x768 1408x704 1472x704 1536x640 1600x640 1664x576 1728x576 1792x576
    1856x512 1920x512 1984x512 2048x512
"""  # height x width at 1024, as the official code lists them
UNDRAWN = "512x1984 512x1920 1664x576 1792x576 1856x512 1920x512 1984x512"  # in training only


def test_the_40_training_sizes_and_the_33_that_are_drawn_are_the_official_ones() -> None:
    trained = [tuple(map(int, size.split("x"))) for size in TRAINED.split()]
    drawn = [size for size in trained if "x".join(map(str, size)) not in UNDRAWN.split()]
    assert [tuple(bucket) for bucket in official_buckets(1024)] == trained
    assert [tuple(bucket) for bucket in official_bins(1024)] == drawn
    assert (len(trained), len(drawn)) == (40, 33)


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_of_the_table_composes_and_validates(option: str) -> None:
    door, *overrides = option.split()
    if door == "train.py":
        parse(composed("+stage=3", "resolution=512", "data.root=somewhere", *overrides), Config)
        return
    with initialize_config_dir(version_base=None, config_dir=str(CONFIGS)):
        values = OmegaConf.to_container(compose("sample", overrides=["weights=w", "prompts=[a]", *overrides]))
    assert isinstance(values, dict)
    parse({str(key): value for key, value in values.items() if key != "hydra"}, SampleConfig)


def test_every_row_has_5_cells_and_says_which_option_selects_it_or_none() -> None:
    differences = [row for row in ROWS[2:] if not row[0].startswith("**")]
    assert len(differences) >= 50
    assert {len(row) for row in ROWS} == {5}
    assert all(all(row) for row in differences)
    assert all("none" in row[-1] or ".py " in row[-1] for row in differences)
