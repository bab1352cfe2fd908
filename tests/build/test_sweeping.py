"""The runs of a sweep: a folder each, or one sentence before the first."""

import re
from pathlib import Path

import pytest
from miniature import SMALL, composed

from pixart.build.sweeping import refuse_shared_runs


def sweep(*jobs: tuple[str, ...]) -> None:
    refuse_shared_runs({f"job {i}": composed("+stage=2", *SMALL, *job) for i, job in enumerate(jobs)})


def test_2_jobs_with_folders_of_their_own_pass() -> None:
    sweep(("model.adaln=single",), ("model.adaln=per_block",))
    sweep(("micro_batch=2", "run_dir=a"), ("micro_batch=4", "run_dir=b"))
    refuse_shared_runs({str(stage): composed(f"+stage={stage}", *SMALL, "run_dir=x/${stage}") for stage in (1, 2)})


@pytest.mark.parametrize(
    ("jobs", "words"),
    [
        ((("seed=1", "run_dir=x"), ("seed=2", "run_dir=x")),
         "run_dir=x is one folder for job 0 and job 1: leave run_dir out, and each has its own, or say where each is "
         "to be, as in run_dir='x-${seed}'"),
        ((("seed=1", "run_dir=x"), ("seed=2", "run_dir=y"), ("seed=3", "run_dir=z/../x")),
         "run_dir=x is one folder for job 0 and job 2"),
        ((("micro_batch=2",), ("micro_batch=4",)),
         "job 0 and job 1 would be one run, as a run may go on with another micro_batch: say where each is to be, as "
         "in run_dir='outputs/${stage}-${scale}-${micro_batch}'"),
        ((("micro_batch=2", "run_dir=x"), ("micro_batch=4", "run_dir=x")),
         "run_dir=x is one folder for job 0 and job 1: say where each is to be, as in run_dir='x-${micro_batch}'"),
        ((("steps=1", "log_every=1"), ("steps=2", "log_every=1"), ("steps=1", "log_every=2")),
         "3 jobs, job 0 to job 2, would be one run, as a run may go on with another steps and log_every"),
        ((("seed=1",), ("seed=1",)), "job 0 and job 1 are the same run: leave all but one out"),
        ((("seed=1",), ("seed=-1",)), "job 1: seed: input should be greater than or equal to 0"),
    ],
)  # fmt: skip
def test_7_sweeps_are_refused_in_a_sentence_with_the_mend(jobs: tuple[tuple[str, ...], ...], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        sweep(*jobs)


def test_the_mend_that_is_told_makes_2_folders(tmp_path: Path) -> None:
    for given in ("run_dir=outputs/${stage}-${scale}-${micro_batch}", f"run_dir={tmp_path}/x-${{micro_batch}}"):
        sweep(("micro_batch=2", given), ("micro_batch=4", given))
