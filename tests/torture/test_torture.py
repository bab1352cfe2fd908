"""The short form of the torture: a spread of each trial's cases, all of which come out as if nothing had happened."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pixart.torture.suite import chosen
from pixart.torture.syscalls import unsupported

ROOT = Path(__file__).resolve().parents[2]
SHORT = [
    *("trials.writes.every=90", "trials.power.every=20", "trials.disk.every=50", "trials.kills.number=3"),
    *("trials.sharded.number=2", "trials.stop.number=2"),
    *(f"trials.{name}.run.steps=10" for name in ("kills", "sharded", "stop")),
]

pytestmark = pytest.mark.skipif(unsupported() is not None, reason=str(unsupported()))


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("torture") / "torture.json"
    finished = subprocess.run(
        [sys.executable, "tools/torture.py", f"json={file}", *SHORT],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=280,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert file.exists(), finished.stderr[-3000:]
    found: dict[str, Any] = json.loads(file.read_text())
    assert finished.returncode == int(any(trial["problems"] for trial in found["trials"]))
    return found


@pytest.mark.parametrize(
    ("trial", "least"), [("writes", 4), ("power", 3), ("disk", 4), ("kills", 3), ("sharded", 2), ("stop", 2)]
)
def test_a_run_that_is_tortured_ends_bit_for_bit_like_one_that_is_not(
    record: dict[str, Any], trial: str, least: int
) -> None:
    outcome = next(outcome for outcome in record["trials"] if outcome["trial"] == trial)
    assert outcome["tried"] >= least
    assert outcome["problems"] == []


def test_the_record_says_on_what_machine_with_which_torch_and_how_to_do_it_again(record: dict[str, Any]) -> None:
    assert record["command"].startswith("python tools/torture.py json=")
    assert record["machine"]["cores"] == os.cpu_count()
    assert record["packages"]["torch"]
    assert record["settings"]["trials"]["writes"]["every"] == 90


def test_a_trial_that_there_is_not_is_1_sentence() -> None:
    with pytest.raises(ValueError, match="trial=reads: there is none of that name; choose all or of writes, power"):
        chosen({"writes": {}, "power": {}}, "reads")
