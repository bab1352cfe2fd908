"""The table of differences names options that exist."""

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from miniature import composed
from omegaconf import OmegaConf

from pixart.config import Config, SampleConfig, parse
from pixart.door import CONFIGS

TABLE = Path(__file__).resolve().parents[2] / "docs" / "fidelity.md"
ROWS = [
    [cell.strip() for cell in line.strip("|\n").split("|")]
    for line in TABLE.read_text(encoding="utf-8").splitlines()
    if line.startswith("|")
]
OPTIONS = sorted({option for row in ROWS for option in re.findall(r"`((?:sample|train)\.py [^`]+)`", row[-1])})


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
