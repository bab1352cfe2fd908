"""The door: the keys of a run, a verdict, and a code that tells it."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("+stage=3", "scale=tiny", "data.num_samples=192", "samples=16")


def doctor(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """The command in this process."""
    import runpy

    monkeypatch.setattr(sys, "argv", ["doctor.py", *arguments])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # the door sets it; here it must not outlive the test
    monkeypatch.setattr(sys, "path", [*sys.path])
    runpy.run_path(str(ROOT / "tools" / "doctor.py"), run_name="__main__")


def test_it_prints_tables_of_80_columns_and_writes_page_and_json(monkeypatch, capsys, tmp_path):
    doctor(monkeypatch, *SMALL, f"page={tmp_path / 'd/page.html'}", f"json={tmp_path / 'd/all.json'}")
    shown = capsys.readouterr().out
    assert "training would run" in shown
    assert "32x48" in shown
    assert max(map(len, [line for line in shown.splitlines() if not line.startswith("note: ")])) <= 80
    assert json.loads((tmp_path / "d/all.json").read_text())["would_train"] is True
    assert "Training would run." in (tmp_path / "d/page.html").read_text()


def test_what_would_stop_training_is_told_and_the_code_is_1(monkeypatch, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        doctor(monkeypatch, *SMALL, "global_batch=200", "data.small_buckets=refuse", f"json={tmp_path / 'all.json'}")
    assert stop.value.code == 1
    shown = capsys.readouterr().out
    assert "stop: bucket 32x48 has 64 samples, fewer than its global batch of 200" in shown
    assert "training would stop" in shown
    assert json.loads((tmp_path / "all.json").read_text())["problems"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "no stage was chosen"),
        (["+stage=2"], "data.root is not set"),
        ([*SMALL, "samples=0"], "samples"),
        ([*SMALL, "smaples=4"], "smaples"),
        ([*SMALL, "run=somewhere"], "set quarantine=, the file that takes them"),
        ([*SMALL, "run=nowhere", "quarantine=q.json"], "run=nowhere holds no config.yaml"),
    ],
)
def test_a_mistake_is_one_sentence(monkeypatch, arguments, sentence):
    with pytest.raises(SystemExit) as stop:
        doctor(monkeypatch, *arguments)
    assert sentence in str(stop.value.code)
    assert "\n" not in str(stop.value.code)


def test_bad_samples_of_a_run_go_into_the_next_version_of_a_quarantine(monkeypatch, capsys, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("")
    line = {"step": 1, "k": 1, "position": 0, "key": "000", "reason": "checksum"}
    (tmp_path / "run/bad_samples.jsonl").write_text(json.dumps(line) + "\n")
    doctor(monkeypatch, *SMALL, f"quarantine={tmp_path / 'bad.json'}", f"run={tmp_path / 'run'}")
    assert "version 1, samples left out: 1, new: 1" in capsys.readouterr().out
    assert json.loads((tmp_path / "bad.json").read_text())["keys"] == {"000": "checksum"}
