"""The ledger adds up over occupations and interruptions."""

import json
from pathlib import Path

import pytest

from pixart.training import ledger as module
from pixart.training.ledger import Ledger


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    return now


def test_two_devices_for_an_hour_and_a_half_are_three_device_hours_by_occupation(
    tmp_path: Path, clock: list[float]
) -> None:
    path = tmp_path / "ledger.json"
    ledger = Ledger(path, devices=2, dollars_per_device_hour=2.5)
    clock[0] += 3600
    with ledger.spent_on("validation"):
        clock[0] += 1800
    ledger.write(samples_seen=7)
    read = json.loads(path.read_text())
    assert read["device_hours"] == {"training": 2.0, "validation": 1.0}
    assert (read["total"], read["dollars"], read["samples_seen"]) == (3.0, 7.5, 7)


def test_a_resumed_run_adds_to_what_it_cost_before_and_knows_no_dollars_without_a_rate(
    tmp_path: Path, clock: list[float]
) -> None:
    path = tmp_path / "ledger.json"
    for _ in range(2):
        ledger = Ledger(path, devices=1, dollars_per_device_hour=None)
        clock[0] += 3600
        ledger.write(samples_seen=1)
    read = json.loads(path.read_text())
    assert read["total"] == 2.0
    assert "dollars" not in read
