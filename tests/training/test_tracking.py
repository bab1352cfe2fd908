"""Averages are means over observations; the log forgets what a resumed run will write again."""

import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from pixart.training.tracking import Averages, MetricsFile


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def test_a_mean_counts_each_observation_once_and_starts_again_after_a_flush(accelerator: Accelerator) -> None:
    averages = Averages(accelerator)
    averages.add("loss", torch.tensor([1.0, 2.0, 3.0]))
    averages.add("loss", torch.tensor(6.0))
    assert averages.flush() == {"loss": 3.0}
    assert averages.flush() == {}


def test_weights_of_zero_do_not_count_and_a_name_without_weight_is_left_out(accelerator: Accelerator) -> None:
    averages = Averages(accelerator)
    averages.add_weighted("some", torch.tensor([1.0, 100.0]), torch.tensor([1.0, 0.0]))
    averages.add_weighted("none", torch.tensor([1.0]), torch.tensor([0.0]))
    assert averages.flush() == {"some": 1.0}


def test_an_expected_name_without_observations_takes_part_and_is_left_out(accelerator: Accelerator) -> None:
    averages = Averages(accelerator)
    averages.expect("loss", "mse")
    assert list(averages.gathered()) == ["loss", "mse"]
    averages.add("loss", torch.tensor(2.0))
    assert averages.flush() == {"loss": 2.0}


def test_gathered_averages_of_another_world_size_are_summed_on_the_first_rank(accelerator: Accelerator) -> None:
    averages = Averages(accelerator)
    averages.restore({"loss": torch.tensor([[4.0, 2.0], [8.0, 2.0]], dtype=torch.float64)})
    averages.add("loss", torch.tensor(3.0))
    assert averages.flush() == {"loss": 3.0}


def test_the_log_is_cut_back_to_a_step_and_loses_a_half_written_line(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.cut_back(0)  # nothing there yet
    for step in (1, 2, 3):
        metrics.write({"step": step, "loss": step / 3})
    with metrics.path.open("a") as file:
        file.write('{"step": 2, "lo')
    metrics.cut_back(2)
    assert [json.loads(line)["step"] for line in metrics.path.read_text().splitlines()] == [1, 2]
