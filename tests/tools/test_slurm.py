"""The sbatch files, under a Slurm of stubs: which ranks they start, and when they go back into the queue."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
FILES = ("one_node.sbatch", "several_nodes.sbatch")

# Tasks on one machine, each with the variables that Slurm gives it; the worst exit code is srun's.
SRUN = """#!/bin/bash
[ "$1" = --kill-on-bad-exit=1 ] && shift
worst=0; tasks=()
for ((i = 0; i < SLURM_NTASKS; i++)); do
  SLURM_PROCID=$i SLURM_LOCALID=$((i % SLURM_NTASKS_PER_NODE)) "$@" & tasks+=($!)
done
for task in "${tasks[@]}"; do wait "$task" || worst=$?; done
exit "$worst"
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo localhost; echo second; else echo "$@" >> "$CALLS"; fi
"""
PYTHON = """#!/bin/bash
echo "$RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $MASTER_ADDR $MASTER_PORT|$*" >> "$STARTED"
"""


class Slurm(NamedTuple):
    """A folder with the sbatch files, and the stubs beside it."""

    folder: Path
    stubs: Path

    def sbatch(
        self, file: str, *arguments: str, python: str | None, tasks: int = 2, srun: str = SRUN
    ) -> subprocess.CompletedProcess[str]:
        """Run a batch file as Slurm would; ``python``: what the stub of Python does further, None for the real one."""
        (self.stubs / "srun").write_text(srun)
        (self.stubs / "scontrol").write_text(SCONTROL)
        if python is None:
            (self.stubs / "python").write_text(f'#!/bin/bash\nexec {sys.executable} "$@"\n')
        else:
            (self.stubs / "python").write_text(f"{PYTHON}{python}\n")
        for stub in self.stubs.iterdir():
            stub.chmod(0o755)
        slurm = {"SLURM_JOB_ID": "1234567", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NTASKS": str(tasks)}
        return subprocess.run(
            ["bash", str(self.folder / "tools" / "slurm" / file), *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
            env={
                **os.environ,
                **slurm,
                "SLURM_NTASKS_PER_NODE": "1" if tasks == 2 else "2",
                "PATH": f"{self.stubs}:{os.environ['PATH']}",
                "CALLS": str(self.stubs.parent / "calls"),
                "STARTED": str(self.stubs.parent / "started"),
                "OMP_NUM_THREADS": "1",
            },
        )

    def _lines(self, name: str) -> list[str]:
        file = self.stubs.parent / name
        return sorted(file.read_text().splitlines()) if file.exists() else []

    @property
    def started(self) -> list[str]:
        return self._lines("started")

    @property
    def calls(self) -> list[str]:
        return self._lines("calls")


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    folder, stubs = tmp_path / "project", tmp_path / "stubs"
    stubs.mkdir()
    shutil.copytree(ROOT / "tools" / "slurm", folder / "tools" / "slurm")
    return Slurm(folder, stubs)


@pytest.mark.parametrize("file", FILES)
def test_a_finished_run_ends_with_0_and_is_not_requeued(slurm: Slurm, file: str) -> None:
    ended = slurm.sbatch(file, "+stage=2", "data.root=/a b", python="exit 0")
    assert ended.returncode == 0, ended.stderr
    assert slurm.calls == []
    run = "train.py +stage=2 data.root=/a b run_dir=outputs/slurm-1234567"
    assert slurm.started == [f"0 0 2 1 localhost 24567|{run}", f"1 0 2 1 localhost 24567|{run}"]


def test_4_tasks_on_2_nodes_are_ranks_0_to_3_with_local_ranks_0_and_1(slurm: Slurm) -> None:
    slurm.sbatch("several_nodes.sbatch", "run_dir=x", python="exit 0", tasks=4)
    assert [line.split("|")[0].split()[:4] for line in slurm.started] == [
        [str(rank), str(rank % 2), "4", "2"] for rank in range(4)
    ]
    assert all(line.endswith("|train.py run_dir=x") for line in slurm.started)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("code", [0, 1])  # a launcher in between may spoil the code: the file alone decides
def test_a_run_that_asks_for_it_is_requeued_once(slurm: Slurm, file: str, code: int) -> None:
    asks = f"mkdir -p my/run; echo asked > my/run/requeue; exit {code}"
    ended = slurm.sbatch(file, "+stage=2", "run_dir=my/run", python=asks)
    assert slurm.calls == ["requeue 1234567"]
    assert ended.returncode == 0
    assert "asked to stop: asked" in ended.stdout


@pytest.mark.parametrize("code", [1, 9])
def test_a_failed_run_ends_with_its_code_and_is_not_requeued(slurm: Slurm, code: int) -> None:
    ended = slurm.sbatch("one_node.sbatch", "+stage=2", python=f'[ "$RANK" = 1 ] && exit {code}')
    assert ended.returncode == code
    assert slurm.calls == []


def test_a_request_of_an_earlier_start_does_not_bring_back_a_run_that_cannot_begin(slurm: Slurm) -> None:
    left = slurm.folder / "x" / "requeue"
    left.parent.mkdir()
    left.write_text("asked")
    ended = slurm.sbatch("one_node.sbatch", "run_dir=x", python="exit 3")
    assert ended.returncode == 3
    assert slurm.calls == []


@pytest.mark.parametrize(("name", "code", "calls"), [("USR1", 0, ["requeue 1234567"]), ("TERM", 143, [])])
def test_a_batch_shell_that_is_warned_too_requeues_and_one_whose_job_is_cancelled_does_not(
    slurm: Slurm, name: str, code: int, calls: list[str]
) -> None:
    asks = f'kill -{name} "$PPID_OF_SHELL"; mkdir -p x; echo asked > x/requeue'
    script = slurm.folder / "tools" / "slurm" / "train_and_requeue.sh"
    script.write_text(f"export PPID_OF_SHELL=$$\n{script.read_text()}")
    ended = slurm.sbatch("one_node.sbatch", "run_dir=x", python=asks, tasks=1)
    assert (ended.returncode, slurm.calls) == (code, calls)
    assert ("submit the same command with run_dir=x to go on" in ended.stdout) == (name == "TERM")


@pytest.mark.slow
def test_2_real_ranks_stop_when_slurm_warns_and_go_on_when_requeued(slurm: Slurm, tmp_path: Path) -> None:
    from miniature import SMALL

    for name in ("pixart", "configs", "train.py"):
        (slurm.folder / name).symlink_to(ROOT / name)
    run = tmp_path / "run"
    warned = (
        f"""(while ! grep -qs '"step": 2,' {run}/metrics.jsonl; do sleep 0.1; done; kill -USR1 "${{tasks[@]}}") &"""
    )
    arguments = ["+stage=2", *SMALL, f"run_dir={run}", "steps=400", "checkpoint_every=100", "validate_every=0"]
    stopped = slurm.sbatch(
        "one_node.sbatch", *arguments, python=None, srun=SRUN.replace("for task", f"{warned}\nfor task")
    )
    assert slurm.calls == ["requeue 1234567"], stopped.stderr
    asked = json.loads((run / "requeue").read_text())
    assert asked["signal"] == "SIGUSR1"
    again = slurm.sbatch("one_node.sbatch", *arguments, f"steps={asked['step'] + 2}", python=None)
    assert again.returncode == 0, again.stderr
    assert not (run / "requeue").exists()
    assert f"resumed at step {asked['step']}" in again.stdout
