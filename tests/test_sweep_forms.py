"""The whole of two runs as jobs of one command, in each form that the documentation names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from miniature import SMALL

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
ACCELERATE = [str(BIN / "accelerate"), "launch", "--multi_gpu", "--num_processes", "2"]
PYTHON = [sys.executable]
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("start", "arguments"),
    [
        (ACCELERATE, []),
        pytest.param([str(BIN / "torchrun"), "--nproc_per_node", "2"], ["sharding=full_shard"], marks=SLOW),
        pytest.param(PYTHON, [], marks=SLOW),
        pytest.param(PYTHON, ["hydra/launcher=joblib"], marks=SLOW),
        pytest.param(PYTHON, ["hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=2"], marks=SLOW),
    ],
)
def test_2_jobs_leave_2_whole_run_directories(start: list[str], arguments: list[str], tmp_path: Path) -> None:
    short = ["steps=2", "sample_every=0", "validate_every=0"]
    swept = ["-m", "+stage=2", *SMALL, *short, "model.adaln=single,per_block", *arguments]
    answer = subprocess.run(
        [*start, str(ROOT / "train.py"), *swept],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    runs = sorted((tmp_path / "outputs").glob("2-tiny-*"))
    assert len(runs) == 2
    for run in runs:
        assert (run / "checkpoints" / "latest").read_text().strip() == "step_00000002"
        assert (run / "snapshots" / "step_00000002.safetensors").is_file()
        assert (run / "metrics.jsonl").read_text().count('"step": 2') == 1
    texts = "".join((run / "config.yaml").read_text() for run in runs)
    assert [texts.count(f"adaln: {kind}\n") for kind in ("single", "per_block")] == [1, 1]
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    assert (sweep / "multirun.yaml").is_file()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["outputs"]
