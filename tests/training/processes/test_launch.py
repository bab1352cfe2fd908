"""Jobs one after another on the same two processes: what one does, fails at or holds is nothing to the next."""

import json
from typing import Any

import pytest
from scripts import run_script

from pixart.training.processes.launch import named

JOBS = ("first", "failed", "one_rank_failed", "sharded", "sharded_again", "only", "unlike")
WHOLE = ("first", "sharded", "sharded_again")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What happened on each of two ranks (tests/meetings.py), and the folder of it all."""
    folder = tmp_path_factory.mktemp("meetings").resolve()
    run_script("meetings.py", str(folder))
    return [{"folder": folder, **json.loads((folder / f"rank_{rank}.json").read_text())} for rank in range(2)]


def test_7_jobs_leave_no_model_file_thread_group_or_setting_to_the_next(told: list[dict[str, Any]]) -> None:
    for rank in told:
        for job in JOBS:
            assert rank[job]["models"] == 0, job
            assert {key: rank[job][key] for key in rank["before"]} == rank["before"], job


def test_after_2_failed_jobs_the_next_2_are_whole(told: list[dict[str, Any]]) -> None:
    folder = told[0]["folder"]
    assert [rank["failed"]["raised"] for rank in told] == [f"ValueError: rank {rank} was lost" for rank in (0, 1)]
    assert "closed by peer" in told[0]["one_rank_failed"]["raised"]
    for job in WHOLE:
        assert [rank[job]["raised"] for rank in told] == [None, None]
        steps = [json.loads(line)["step"] for line in (folder / job / "metrics.jsonl").read_text().splitlines()]
        assert max(steps) == 2
        assert not (folder / f"{job}_1").exists()  # where rank 1 would have gone
        assert (folder / job / "checkpoints" / "latest").read_text().strip() == "step_00000002"


def test_a_rank_that_does_not_come_is_named_and_2_meet_for_the_job_after(told: list[dict[str, Any]]) -> None:
    first, second = told[0]["late"]["told"]
    assert first.startswith("rank 1 did not come within 0.5 s")
    assert second == "2 met"
    assert told[1]["late"]["told"][0].startswith("rank 0 did not come")


def test_a_preflight_of_2_ranks_tells_what_the_run_will_be(told: list[dict[str, Any]]) -> None:
    table = next(line for line in told[0]["sharded"]["said"] if line.startswith("preflight  "))
    assert "ranks 0-1: 2 x cpu" in table
    assert "16.8 MB in" in table
    assert "64 samples in batches of 8: 8 a pass, 2 to come (100.0% of steps)" in table
    assert "16 samples, 1,024 image tokens, 0.25 passes" in table
    assert "preflight: all is well" in told[0]["sharded"]["said"]


def test_preflight_only_leaves_0_files_and_unlike_ranks_are_refused_alike(told: list[dict[str, Any]]) -> None:
    folder = told[0]["folder"]
    assert told[0]["only"]["said"][-1] == "preflight: all is well"
    assert not (folder / "only").exists()
    sentences = {rank["unlike"]["raised"] for rank in told}
    (sentence,) = sentences
    assert "optimizer.lr is 0.5 on rank 1 and 0.013 on rank 0: start all processes alike" in sentence
    assert not (folder / "unlike").exists()


def test_ranks_are_named_in_3_forms() -> None:
    assert named([3]) == "rank 3"
    assert named([2, 0, 1]) == "ranks 0-2"
    assert named([0, 1, 7, 4, 5]) == "ranks 0-1 and 4-5 and 7"
