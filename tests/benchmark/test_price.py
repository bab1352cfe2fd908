"""The price of the recipe is the paper's samples over the rates measured."""

from pathlib import Path

import pytest
from measuring import composed, measured

from pixart.benchmark import price
from pixart.benchmark.record import Figure, record, write_record
from pixart.benchmark.suites import Run, run_suites
from pixart.config import parse

RATES = {256: 500.0, 512: 110.0, 1024: 20.0}


def figures(parameters: float = 610.9, rates: dict[int, float] = RATES) -> list[Figure]:
    return [
        figure
        for pixels, rate in rates.items()
        for figure in (
            Figure("train_step", f"of_{pixels}: parameters", parameters, "M"),
            Figure("train_step", f"of_{pixels}: resolution", pixels, "px"),
            Figure("train_step", f"of_{pixels}: eager images_per_second", 2 * rate, "images/s"),
            Figure("train_step", f"of_{pixels}: ours_compiled images_per_second", rate, "images/s"),
        )
    ]


def test_at_500_110_and_20_images_a_second_the_recipe_takes_101_device_days(tmp_path: Path):
    write_record(tmp_path / "gpu.json", record(figures(), {}))
    found = measured("price", tmp_path, f"record={tmp_path}/gpu.json")
    days = (307.2e6 + 1708.8e6 + 1025.28e6) / 500 / 86400 + 256e6 / 110 / 86400 + 6.144e6 / 20 / 86400
    assert found["whole recipe"].value == pytest.approx(days) == pytest.approx(100.9, abs=0.1)
    assert found["whole recipe"].met
    assert found["whole recipe at $1.57 a device-hour"].value == pytest.approx(days * 24 * 1.57)
    assert found["text_image_alignment: samples"].value == pytest.approx(1708.8)


def test_without_a_rate_each_stage_says_which_key_to_give_and_nothing_is_made_up(tmp_path: Path):
    said: list[str] = []
    found = measured("price", tmp_path, "stages.pixel_dependency.images_per_second=500", said=said)
    assert list(found) == ["pixel_dependency: samples", "pixel_dependency: at 500 images/s"]
    assert sum("images_per_second=" in line for line in said) == 4
    assert any("no price of the whole recipe" in line for line in said)


@pytest.mark.parametrize(
    "found",
    [figures(parameters=50), figures(rates=dict.fromkeys(RATES, 0.0)), figures(rates=dict.fromkeys(RATES, 5e-324))],
)
def test_a_rate_of_a_smaller_model_or_of_nothing_is_no_rate(tmp_path: Path, found: list[Figure]):
    write_record(tmp_path / "other.json", record(found, {}))
    said: list[str] = []
    assert not measured("price", tmp_path, f"record={tmp_path}/other.json", said=said)
    told = [line for line in said if "no rate of ours_compiled at" in line and "with 600 M parameters or more" in line]
    assert len(told) == 5
    assert f"in {tmp_path}/other.json, which has of_256 (256 px, " in told[0]


def test_of_2_rates_at_one_resolution_the_better_counts(tmp_path: Path):
    beside = [
        Figure("train_step", "beside_peers: parameters", 610.9, "M"),
        Figure("train_step", "beside_peers: resolution", 256, "px"),
        Figure("train_step", "beside_peers: ours_compiled images_per_second", 400.0, "images/s"),
    ]
    for found in ([*beside, *figures()], [*figures(), *beside]):
        write_record(tmp_path / "both.json", record(found, {}))
        assert "pixel_dependency: at 500 images/s" in measured("price", tmp_path, f"record={tmp_path}/both.json")


def test_rates_of_suites_measured_before_in_the_same_run_are_taken(tmp_path: Path):
    settings = parse(composed("suite=price")["suites"]["price"], price.Settings)
    run = Run(1, 0, tmp_path, lambda _: None, tuple(figures()))
    assert "whole recipe" in [figure.name for figure in price.measure(settings, run)]


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "no JSON",
        '{"figures": [1]}',
        '{"figures": [{"suite": "train_step"}]}',
        '{"figures": [{"suite": "train_step", "name": "a: parameters", "unit": "", "value": 1%s}]}' % ("0" * 400),
        "[" * 100_000,
        '{"figures": [{"suite": "train_step", "name": "px256: parameters", "unit": "", "value": "many"}]}',
        '{"figures": [{"suite": "train_step", "name": "px256: parameters", "unit": "", "value": NaN}]}',
    ],
)
def test_a_file_that_is_no_record_is_one_sentence(tmp_path: Path, text: str):
    values = composed("suite=price")["suites"]
    (tmp_path / "bad.json").write_text(text)
    values["price"]["record"] = str(tmp_path / "bad.json")
    with pytest.raises(ValueError, match=r"bad\.json is no record of tools/benchmark\.py"):
        run_suites(values, rounds=1, seed=0, scratch=tmp_path, say=lambda _: None)


def test_fewer_stages_than_the_papers_are_not_compared_with_its_price(tmp_path: Path):
    write_record(tmp_path / "gpu.json", record(figures(), {}))
    said: list[str] = []
    less = "stages.high_aesthetics_512.steps=50000"
    found = measured("price", tmp_path, f"record={tmp_path}/gpu.json", less, said=said)
    assert "these stages are not the paper's, of 3,303 M samples, and not compared" in said
    assert found["these stages"].target is None
    assert not any("whole recipe" in name for name in found)


def test_an_older_record_is_to_be_measured_again(tmp_path: Path):
    old = [figure for figure in figures() if figure.name.endswith("per_second")]
    write_record(tmp_path / "old.json", record(old, {}))
    said: list[str] = []
    assert not measured("price", tmp_path, f"record={tmp_path}/old.json", "least_parameters=0", said=said)
    assert "of_256 (which does not say its resolution and parameters and is to be measured again: eager" in said[1]
