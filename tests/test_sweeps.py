"""Several jobs in one command: in one process, in joblib's, in submitit's, and through the sbatch file of Slurm."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pixart.door import CONFIGS, register_resolvers, told_to_hydra
from pixart.sweeps import Job, is_sweep, jobs_of_sweep, refuse_two_launchers, settings_of_sweep, take_part_in_task

TESTS = Path(__file__).parent
BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"

# A Slurm of one machine: sbatch runs each task of an array at once, and srun each process of it.
STUBS = {
    "sbatch": """
script=${@: -1}
cp "$script" "$SWEPT/sbatch.sh"
[ -z "$REFUSED" ] || { echo "sbatch: error: invalid partition specified: $REFUSED" >&2; exit 1; }
per_node=$(sed -n 's/^#SBATCH --ntasks-per-node=//p' "$script")
export SLURM_NTASKS=$per_node SLURM_NNODES=1 SLURM_NODEID=0 SLURM_JOB_NODELIST=node7 SLURM_JOB_NUM_NODES=1
export SLURM_ARRAY_JOB_ID=77
for task in 0 1; do
  SLURM_ARRAY_TASK_ID=$task SLURM_JOB_ID=$((78 + task)) bash "$script" >"$SWEPT/task_$task.log" 2>&1 &
done
echo "Submitted batch job 77"
""",
    "srun": """
while [[ $1 == -* ]]; do case $1 in --output|--error) shift 2;; *) shift;; esac; done
for ((rank = 0; rank < SLURM_NTASKS; rank++)); do SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" & done
wait
""",
    "sacct": "echo 'JobID|State|NodeList'; for t in 0 1; do echo \"77_$t|RUNNING|node7\"; done",
    "scontrol": "echo node7",
}


def sweep(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """``python sweeping.py -m …`` from an empty folder elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "HYDRA"))}
    return subprocess.run(
        [sys.executable, str(TESTS / "sweeping.py"), "-m", "scale=tiny", *arguments],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(TESTS.parent), "SWEPT": str(folder), **environ},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def told(folder: Path) -> dict[str, dict[str, Any]]:
    return {file.stem: json.loads(file.read_text()) for file in folder.glob("*_*.json")}


def slurm(folder: Path) -> dict[str, str]:
    for name, text in STUBS.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}")
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def jobs(*arguments: str) -> list[Job]:
    register_resolvers()
    return jobs_of_sweep(str(CONFIGS), "train", told_to_hydra("train", ["-m", *arguments]))


def test_2_stages_by_2_seeds_are_4_jobs_known_before_the_first() -> None:
    found = jobs("+stage=1,2", "scale=tiny", "seed=3,4", "hydra/launcher=joblib")
    assert [job.name for job in found][1] == "job 1 (stage='1' seed=4)"
    assert [(job.values["stage"], job.values["seed"]) for job in found] == [(1, 3), (1, 4), (2, 3), (2, 4)]
    assert {job.launcher for job in found} == {"hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"}
    assert jobs("+stage=1", "scale=tiny")[0].name == "job 0"
    assert jobs("+stage=1,2", "scale=tiny", "run_dir='x/${hydra:job.num}'")[1].values["run_dir"] == "x/1"
    assert jobs("+stage=1", "hydra/sweeper=other") == []


def test_the_same_command_has_the_same_folder_and_1_of_2_ranks_tells_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    first = settings_of_sweep("train", ["-m", "seed=1,2"])
    assert first == settings_of_sweep("train", ["-m", "seed=1,2"])
    assert re.fullmatch(r"hydra.sweep.dir=outputs/sweeps/[0-9a-f]{8}", first[0])
    assert first != settings_of_sweep("train", ["-m", "seed=1,3"])
    assert settings_of_sweep("train", ["-m", "hydra.sweep.dir=mine"]) == ["hydra.job.name=train"]
    monkeypatch.setenv("RANK", "1")
    assert "hydra/hydra_logging=none" in settings_of_sweep("train", ["-m"])
    assert not is_sweep(["seed=1"])
    assert is_sweep(["seed=1,2", "hydra.mode=MULTIRUN"])


def test_a_launcher_under_another_one_of_2_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    refuse_two_launchers([Job("job 0", BASIC, {})])
    with pytest.raises(ValueError, match=r"starts processes of its own.*tasks_per_node=N"):
        refuse_two_launchers([Job("job 0", "somewhere.JoblibLauncher", {})])
    monkeypatch.setenv("WORLD_SIZE", "1")
    refuse_two_launchers([Job("job 0", "somewhere.JoblibLauncher", {})])


def test_a_task_that_sees_1_gpu_takes_it_whatever_its_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    for name in names:
        monkeypatch.setenv(name, "0")  # put back afterwards
        monkeypatch.delenv(name)
    take_part_in_task()
    assert "RANK" not in os.environ
    given = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "5", "SLURM_NTASKS": "16", "SLURM_PROCID": "11"}
    given |= {"SLURM_LOCALID": "3", "SLURM_NNODES": "2", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "n[3-4]"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")
    take_part_in_task()
    assert [os.environ[name] for name in names[:5]] == ["11", "3", "16", "8", "n3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    take_part_in_task()
    assert os.environ["LOCAL_RANK"] == "0"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"


def test_of_4_jobs_in_one_process_2_fail_in_words_and_2_are_done(tmp_path: Path) -> None:
    answer = sweep(tmp_path, "+stage=1", "seed=13,1,14,2")
    assert answer.returncode == 1
    assert sorted(told(tmp_path)) == ["13_0", "14_0", "1_0", "2_0"]
    assert len({one["process"] for one in told(tmp_path).values()}) == 1
    lines = answer.stderr.strip().splitlines()
    assert lines[0] == "job 0 (seed=13) failed: 13 brings no luck: take another seed"
    assert lines[-1] == "error: job 0 (seed=13) failed: 13 brings no luck: take another seed"
    assert "in work\n    raise KeyError" in answer.stderr  # a fault shows where it is
    assert "job 2 (seed=14) failed: KeyError: 'a fault of ours'" in answer.stderr
    assert "raise ValueError" not in answer.stderr  # and a mistake does not
    assert len(list(tmp_path.glob("outputs/sweeps/*/multirun.yaml"))) == 1


def test_a_job_that_stops_ends_the_sweep_of_3_in_one_process(tmp_path: Path) -> None:
    answer = sweep(tmp_path, "+stage=1", "seed=1,15,2")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert sorted(told(tmp_path)) == ["15_0", "1_0"]


def test_of_3_jobs_in_processes_of_joblib_1_fails_in_words_and_2_are_done(tmp_path: Path) -> None:
    lr = "optimizer.lr='${at:${seed},{13:0.5,2:0.6,3:0.7}}'"  # a resolver of ours, in a process that does not know it
    answer = sweep(tmp_path, "+stage=2", "seed=13,2,3", lr, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert answer.returncode == 1
    assert answer.stderr.strip().splitlines()[-1].startswith("error: job 0 (seed=13) failed: 13 brings no luck")
    assert "Traceback" not in answer.stderr
    assert {name: one["lr"] for name, one in told(tmp_path).items()} == {"13_0": 0.5, "2_0": 0.6, "3_0": 0.7}
    assert len({one["process"] for one in told(tmp_path).values()}) == 2


def test_3_jobs_of_2_tasks_of_submitit_are_6_ranks_and_one_that_stops_is_said(tmp_path: Path) -> None:
    local = ("hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=2", "hydra.launcher.timeout_min=3")
    answer = sweep(tmp_path, "+stage=1", "seed=15,2,13", *local)
    assert answer.returncode == 1
    last = answer.stderr.strip().splitlines()[-1]
    assert last == "error: job 0 (seed=15) ended before it was done: run the same command again"
    assert "Traceback" not in answer.stderr
    found = told(tmp_path)
    assert sorted(found) == ["13_0", "13_1", "15_0", "15_1", "2_0", "2_1"]
    assert [found[f"2_{rank}"]["LOCAL_RANK"] for rank in (0, 1)] == ["0", "1"]
    assert {one["WORLD_SIZE"] for one in found.values()} == {"2"}
    assert found["2_0"]["MASTER_PORT"] == found["2_1"]["MASTER_PORT"] != found["13_0"]["MASTER_PORT"]


def test_2_jobs_of_slurm_get_an_sbatch_file_and_4_ranks(tmp_path: Path) -> None:
    asked = ("nodes=1", "tasks_per_node=2", "gpus_per_node=2", "partition=big", "timeout_min=90", "max_num_timeout=5")
    answer = sweep(
        tmp_path,
        *("+stage=2", "seed=14,2", "hydra/launcher=submitit_slurm", *(f"hydra.launcher.{one}" for one in asked)),
        **slurm(tmp_path),
    )
    written = (tmp_path / "sbatch.sh").read_text()
    for line in ("array=0-1%", "ntasks-per-node=2", "gpus-per-node=2", "partition=big", "time=90", "job-name=train"):
        assert f"#SBATCH --{line}" in written
    assert "#SBATCH --signal=USR2@120" in written
    found = told(tmp_path)
    assert sorted(found) == ["14_0", "14_1", "2_0", "2_1"], answer.stderr
    assert [found[f"2_{rank}"]["RANK"] for rank in (0, 1)] == ["0", "1"]
    assert {one["MASTER_ADDR"] for one in found.values()} == {"node7"}
    assert {one["cwd"] for one in found.values()} == {str(tmp_path)}
    assert answer.returncode == 1
    assert "in work\n    raise KeyError" in answer.stderr  # though it happened on another machine
    assert answer.stderr.strip().splitlines()[-1] == "error: job 0 (seed=14) failed: KeyError: 'a fault of ours'"


@pytest.mark.parametrize(("refused", "words"), [("huge", "invalid partition"), (None, "srun")])
def test_a_partition_or_a_slurm_that_is_not_there_is_1_line(refused: str | None, words: str, tmp_path: Path) -> None:
    environ = {} if refused is None else {**slurm(tmp_path), "REFUSED": refused}
    answer = sweep(tmp_path, "+stage=1", "seed=1,2", "hydra/launcher=submitit_slurm", **environ)
    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr
    assert words in answer.stderr.strip().splitlines()[-1]
    assert told(tmp_path) == {}
