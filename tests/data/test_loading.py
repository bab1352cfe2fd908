"""Laws of the loader: the same steps for any number of workers, errors as they are, nothing left behind."""

import multiprocessing
import os
import signal
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep

import pytest
import torch

from pixart.batch import Batch
from pixart.data.buckets import Bucket
from pixart.data.dataset import Examples
from pixart.data.loading import loader
from pixart.data.planning.plan import Part, Plan

OPTIONS = {
    "seed": 3,
    "latent_channels": 3,
    "latent_stride": 1,
    "posterior_noise": False,
    "tokenize": None,
    "max_tokens": 0,
    "caption_choice": "first",
    "caption_drop": 0.0,
    "null_label": 5,
    "label_drop": 0.3,
    "size_conditioning": False,
    "aspect_ratio": "exact",
    "flip": True,
    "stratified": True,
}
LOADING = {"micro_batch": 3, "world_size": 2, "rank": 1, "pin_memory": False}


@pytest.fixture
def examples(numbered: type) -> Examples:
    source = numbered(30, [(8, 8), (8, 12)])
    plan = Plan(
        [Part(source.heights, source.widths)],
        buckets=[Bucket(8, 8), Bucket(8, 12)],
        global_batch=10,
        seed=3,
        small_buckets="refuse",
        distance="log",
        streams=1,
        window=1,
    )
    return Examples(source, plan, **OPTIONS)


def fields(batch: Batch) -> list:
    return [x.tolist() if isinstance(x, torch.Tensor) else x for x in batch]


def test_no_one_and_three_workers_give_the_same_batches_in_the_same_order(examples: Examples):
    read = []
    for workers in (0, 1, 3):
        steps = loader(examples, range(4, 9), num_workers=workers, **LOADING)
        read.append([(step.k, step.cuts, [fields(batch) for batch in step.batches]) for step in steps])
    assert read[0] == read[1] == read[2]
    assert [k for k, _, _ in read[0]] == [4, 5, 6, 7, 8]
    assert all(len(cuts) == len(batches) == 2 for _, cuts, batches in read[0])


def test_a_step_knows_its_global_batch_and_a_caller_may_leave_micro_batches_unread(examples: Examples):
    for step in loader(examples, [9, 2], num_workers=0, **LOADING):
        assert step.global_batch == 10
        assert next(step.batches).keys == examples[step.cuts[0]].keys


def test_an_error_in_a_worker_arrives_as_one_sentence_in_its_own_micro_batch(
    examples: Examples, numbered: type, monkeypatch: pytest.MonkeyPatch
):
    plain = numbered.read
    bad = int(examples.plan.batch(3).rows[8])

    def read(self, row: int):
        if row == bad:
            raise ValueError(f"{row:04d}: cannot be read")
        return plain(self, row)

    monkeypatch.setattr(numbered, "read", read)
    steps = loader(examples, [3], num_workers=1, **LOADING)
    step = next(steps)
    assert len(next(step.batches).keys) == 2  # positions 5 and 6; then 7, 8 and 9
    with pytest.raises(ValueError, match=rf"^{bad:04d}: cannot be read$"):
        next(step.batches)
    steps.close()


def test_leaving_the_loader_ends_its_workers_even_while_a_step_is_held(examples: Examples):
    others = set(multiprocessing.active_children())
    steps = loader(examples, range(100_000), num_workers=2, **LOADING)
    held = next(steps)
    next(held.batches)
    workers = set(multiprocessing.active_children()) - others
    assert len(workers) == 2
    steps.close()
    assert not any(worker.is_alive() for worker in workers)


def test_the_loader_leaves_torchs_global_generator_alone(examples: Examples):
    before = torch.get_rng_state()
    next(next(loader(examples, [0], num_workers=0, **LOADING)).batches)
    assert torch.equal(before, torch.get_rng_state())


# Fetching ahead.


def rows_of(examples: Examples, k: int) -> list[int]:
    """What rank 1 of 2 reads in step ``k`` of ten."""
    return examples.plan.batch(k).rows[5:].tolist()


def told_until(told: list, rows: list[int]) -> None:
    """Wait until the source was told of ``rows``, and of nothing since."""
    until = monotonic() + 5
    while (not told or told[-1] != rows) and monotonic() < until:
        sleep(0.005)
    assert told[-1] == rows


@pytest.mark.parametrize("workers", [0, 2])
def test_the_source_is_told_3_steps_ahead_what_this_rank_will_read_and_at_the_end_of_nothing(
    examples: Examples, workers: int, monkeypatch: pytest.MonkeyPatch
):
    told: list[list[int]] = []
    monkeypatch.setattr(examples.source, "fetch_ahead", lambda rows: told.append(rows.tolist()))
    steps = loader(examples, range(4, 9), num_workers=workers, ahead=3, **LOADING)
    next(steps)
    told_until(told, [row for k in (4, 5, 6, 7) for row in rows_of(examples, k)])
    next(steps)
    told_until(told, [row for k in (5, 6, 7, 8) for row in rows_of(examples, k)])
    next(steps)
    told_until(told, [row for k in (6, 7, 8) for row in rows_of(examples, k)])
    steps.close()
    assert told[-1] == []
    assert not [thread for thread in threading.enumerate() if thread.name == "look ahead"]


def test_looking_ahead_changes_no_batch_and_ends_with_the_last_step(examples: Examples):
    plain = [fields(b) for s in loader(examples, range(4), num_workers=0, **LOADING) for b in s.batches]
    ahead = [fields(b) for s in loader(examples, range(4), num_workers=0, ahead=2, **LOADING) for b in s.batches]
    assert plain == ahead
    assert not [thread for thread in threading.enumerate() if thread.name == "look ahead"]


def test_endless_steps_are_looked_ahead_into(examples: Examples, monkeypatch: pytest.MonkeyPatch):
    told: list[list[int]] = []
    monkeypatch.setattr(examples.source, "fetch_ahead", lambda rows: told.append(rows.tolist()))
    steps = loader(examples, range(7, 2**62), num_workers=0, ahead=1, **LOADING)
    next(steps)
    told_until(told, rows_of(examples, 7) + rows_of(examples, 8))
    steps.close()


def test_a_source_that_fails_to_look_ahead_is_no_error_until_it_is_read(
    examples: Examples, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(threading, "excepthook", lambda _: None)

    def fails(rows) -> None:
        if len(rows):
            raise RuntimeError("no")

    monkeypatch.setattr(examples.source, "fetch_ahead", fails)
    assert len(list(loader(examples, range(3), num_workers=0, ahead=1, **LOADING))) == 3


# Signals.


def sent_by_another(number: signal.Signals, *processes: int) -> None:
    subprocess.run(["kill", f"-{number.value}", *map(str, processes)], check=True)


def workers_of(others: set) -> list:
    return sorted(set(multiprocessing.active_children()) - others, key=lambda process: process.pid)


def test_2_workers_survive_signals_to_the_whole_job_and_make_the_batches_that_they_owe(examples: Examples):
    others = set(multiprocessing.active_children())
    steps = loader(examples, range(12), num_workers=2, **LOADING)
    read = [fields(batch) for batch in next(steps).batches]
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        sent_by_another(number, *(worker.pid for worker in workers_of(others)))
        read += [fields(batch) for batch in next(steps).batches]
    assert all(worker.is_alive() for worker in workers_of(others))
    read += [fields(batch) for step in steps for batch in step.batches]
    assert read == [fields(b) for s in loader(examples, range(12), num_workers=0, **LOADING) for b in s.batches]


def test_a_worker_that_outlived_a_signal_to_the_job_ends_in_1_s_when_its_parent_says_so(examples: Examples):
    others = set(multiprocessing.active_children())
    steps = loader(examples, range(100_000), num_workers=1, **LOADING)
    next(next(steps).batches)
    (worker,) = workers_of(others)
    sent_by_another(signal.SIGTERM, worker.pid)
    sleep(0.1)
    worker.terminate()
    worker.join(timeout=1)
    assert worker.exitcode == 0
    steps.close()


def test_no_signal_is_held_back_in_this_process_once_the_workers_run(examples: Examples):
    steps = loader(examples, range(3), num_workers=1, **LOADING)
    next(steps)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGTERM, signal.SIGUSR1}
    steps.close()


def descendants(process: int) -> list[int]:
    children: list[int] = []
    for task in Path(f"/proc/{process}/task").iterdir():
        with suppress(FileNotFoundError):  # a thread may end while we look
            children += map(int, (task / "children").read_text().split())
    return [*children, *(further for child in children for further in descendants(child))]


def test_beside_cuda_the_server_that_forks_the_workers_survives_them_too(
    examples: Examples, monkeypatch: pytest.MonkeyPatch
):
    wanted = [fields(b) for s in loader(examples, range(12), num_workers=0, **LOADING) for b in s.batches]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    steps = loader(examples, range(12), num_workers=1, **LOADING)
    read = [fields(batch) for batch in next(steps).batches]
    for number in (signal.SIGTERM, signal.SIGUSR1):
        sent_by_another(number, *descendants(os.getpid()))
    sleep(0.1)
    assert read + [fields(batch) for step in steps for batch in step.batches] == wanted
