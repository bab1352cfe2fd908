"""Laws of the loader: the same steps for any number of workers, errors as they are, nothing left behind."""

import multiprocessing

import pytest
import torch

from pixart.batch import Batch
from pixart.data.buckets import Bucket
from pixart.data.dataset import Examples
from pixart.data.loading import loader
from pixart.data.plan import Part, Plan

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
