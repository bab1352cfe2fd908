"""A door's ``--help`` says of every key what its configuration says."""

import subprocess
import sys
from pathlib import Path

import pytest

from pixart.door import CONFIGS, door
from pixart.help import help_of

DOORS = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def keys(text: str) -> set[str]:
    return {line.partition(":")[0] for line in text.splitlines() if line[:1].isalpha() and ":" in line}


@pytest.mark.parametrize("name", DOORS)
def test_each_of_the_doors_tells_its_keys_with_their_comments_and_nothing_of_hydras(name: str):
    told, written = help_of(CONFIGS, name, []), (CONFIGS / f"{name}.yaml").read_text()
    assert keys(written) - {"defaults", "hydra"} <= keys(told)
    assert told.startswith(written.splitlines()[0])
    assert not {"defaults", "hydra"} & keys(told)
    assert "job_logging" not in told


def test_only_the_groups_of_a_door_are_told_and_no_base_is_a_choice():
    assert "suite=all|attention" in help_of(CONFIGS, "benchmark", [])
    assert "model=" not in help_of(CONFIGS, "benchmark", [])
    assert "To choose" not in help_of(CONFIGS, "sample", [])
    for name in ("train", "doctor"):  # the second is built on the first
        told = help_of(CONFIGS, name, [])
        assert "  model=b_2|l_2|s_2|tiny|xl_2\n" in told
        assert "  stage=1|2|3\n" in told


def test_of_2_files_that_are_chosen_the_keys_are_told_with_those_of_their_base():
    told = help_of(CONFIGS, "train", ["+stage='2'", "model=xl_2", "data=nonsense", "steps=4", "--help"])
    assert "# configs/stage/2.yaml\n" in told
    assert "# configs/model/xl_2.yaml\n# XL/2\ndim: 1152" in told
    assert "# configs/model/shared.yaml\n" in told
    assert "checkpointing: blocks       # computed again" in told
    assert "configs/data" not in told


@pytest.mark.parametrize("asks", ["--help", "-h"])
def test_a_door_that_is_asked_for_help_does_no_work(
    asks: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["sample.py", "seed=3", asks])
    door("sample", lambda _: pytest.fail("it worked"))()
    assert capsys.readouterr().out == help_of(CONFIGS, "sample", [])
    monkeypatch.setenv("RANK", "1")
    door("sample", lambda _: pytest.fail("it worked"))()
    assert capsys.readouterr().out == ""


def test_help_of_the_largest_door_comes_without_torch():
    code = "import sys, runpy; sys.argv = ['train.py', '--help']; runpy.run_path('train.py', run_name='__main__')"
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.startswith("# One training run.")
    assert "| torch\n" not in told.stderr
