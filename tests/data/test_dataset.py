"""Laws of cuts and examples: a pure function of (seed, k, position), whatever the cut."""

from collections.abc import Callable, Sequence
from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pixart.batch import Batch, Fault, places_of
from pixart.data.buckets import Bucket
from pixart.data.dataset import Cut, Examples, cuts
from pixart.data.planning.plan import Part, Plan
from pixart.data.source import BadSample

BUCKETS = [Bucket(16, 16), Bucket(16, 24)]


def bytes_of(captions: Sequence[str]) -> list[list[int]]:
    """A tokenizer: the bytes of a caption and an end token 1."""
    return [[*caption.encode(), 1] for caption in captions]


OPTIONS = {
    "seed": 3,
    "latent_channels": 4,
    "latent_stride": 8,
    "posterior_noise": True,
    "tokenize": bytes_of,
    "max_tokens": 12,
    "caption_choice": "first",
    "caption_drop": 0.0,
    "null_label": None,
    "label_drop": 0.0,
    "size_conditioning": True,
    "aspect_ratio": "exact",
    "flip": False,
    "stratified": True,
}


@pytest.fixture
def make(numbered: type) -> Callable[..., Examples]:
    def examples(**changes: object) -> Examples:
        source = numbered(40, [(16, 16), (16, 24)])
        plan = Plan(
            [Part(source.heights, source.widths)],
            buckets=BUCKETS,
            global_batch=10,
            seed=3,
            small_buckets="refuse",
            distance="log",
            streams=1,
            window=1,
        )
        return Examples(source, plan, **{**OPTIONS, **changes})

    return examples


def joined(batches: list[Batch]) -> Batch:
    """Micro-batches as one."""
    columns = zip(*batches, strict=True)
    whole = Batch(
        *(
            None if c[0] is None else torch.cat(c) if isinstance(c[0], torch.Tensor) else tuple(sum(c, ()))
            for c in columns
        )
    )
    return whole if whole.mask is None else whole._replace(places=places_of(whole.mask))


def assert_equal(one: Batch, other: Batch) -> None:
    for name, a, b in zip(Batch._fields, one, other, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, name


@given(st.integers(1, 400), st.integers(1, 40), st.integers(1, 64))
@settings(max_examples=60, deadline=None)
def test_ranks_share_every_position_once_in_equally_many_pieces_that_are_neither_empty_nor_too_large(
    global_batch: int, micro_batch: int, world_size: int
):
    pieces = world_size * ceil(ceil(global_batch / micro_batch) / world_size)
    common = {"micro_batch": micro_batch, "world_size": world_size, "k": 6}
    if pieces > global_batch:
        with pytest.raises(ValueError, match=f"global_batch={global_batch} cannot be shared"):
            cuts(global_batch, rank=0, **common)
        return
    shares = [cuts(global_batch, rank=rank, **common) for rank in range(world_size)]
    assert {len(share) for share in shares} == {pieces // world_size}
    taken = [position for share in shares for cut in share for position in range(cut.start, cut.stop)]
    assert taken == list(range(global_batch))
    lengths = {cut.stop - cut.start for share in shares for cut in share}
    assert min(lengths) >= 1
    assert max(lengths) <= min(micro_batch, min(lengths) + 1)
    assert all(cut.k == 6 for share in shares for cut in share)


def test_the_papers_batch_of_11392_is_one_micro_batch_of_178_on_each_of_64_processes():
    assert [len(cuts(178 * 64, micro_batch=178, world_size=64, rank=rank, k=0)) for rank in (0, 63)] == [1, 1]


@pytest.mark.parametrize(("micro_batch", "world_size"), [(1, 1), (4, 1), (3, 2), (2, 5), (10, 10)])
def test_the_same_global_batch_comes_out_of_any_micro_batch_and_world_size(
    make: Callable[..., Examples], micro_batch: int, world_size: int
):
    examples = make(caption_choice="random", caption_drop=0.5, flip=True, null_label=5, label_drop=0.5)
    ranks = range(world_size)
    cut = [c for r in ranks for c in cuts(10, micro_batch=micro_batch, world_size=world_size, rank=r, k=7)]
    assert_equal(joined([examples[c] for c in cut]), examples[Cut(7, 0, 10)])


def test_a_batch_has_the_promised_shapes_and_types(make: Callable[..., Examples]):
    examples = make(null_label=5)
    k = next(k for k in range(20) if examples.plan.batch(k).bucket == (16, 24))
    batch = examples[Cut(k, 2, 6)]
    assert batch.noise.shape == batch.posterior_noise.shape == (4, 4, 2, 3)
    assert not torch.equal(batch.noise, batch.posterior_noise)
    assert batch.images.shape == (4, 3, 16, 24)
    assert batch.images.dtype == batch.noise.dtype == torch.float32
    assert batch.u.dtype == torch.float64
    assert batch.token_ids.shape == batch.mask.shape == (4, 12)
    assert batch.size.tolist() == [[16, 24]] * 4
    assert batch.aspect_ratio.tolist() == [[pytest.approx(16 / 24)]] * 4
    rows = [int(key) for key in batch.keys]
    assert rows == examples.plan.batch(k).rows[2:6].tolist()
    assert batch.label.tolist() == [row % 5 for row in rows]
    torch.testing.assert_close(batch.images[:, 0, 0, 0], torch.tensor(rows) / 127.5 - 1)


def test_the_aspect_ratio_is_the_two_decimal_key_when_asked(make: Callable[..., Examples]):
    examples = make(aspect_ratio="bucket")
    k = next(k for k in range(20) if examples.plan.batch(k).bucket == (16, 24))
    assert examples[Cut(k, 0, 1)].aspect_ratio.item() == pytest.approx(0.67)


def test_what_is_not_asked_for_is_none(make: Callable[..., Examples]):
    batch = make(tokenize=None, posterior_noise=False, size_conditioning=False)[Cut(0, 0, 2)]
    absent = ("token_ids", "mask", "posterior_noise", "size", "aspect_ratio", "label", "moments", "states")
    assert [getattr(batch, name) for name in absent] == [None] * 8


def test_tokens_are_padded_with_0_to_max_tokens_and_masked(make: Callable[..., Examples]):
    batch = make()[Cut(0, 0, 10)]
    for key, ids, mask in zip(batch.keys, batch.token_ids, batch.mask, strict=True):
        tokens = bytes_of([f"row {int(key)}"])[0]
        assert ids.tolist() == tokens + [0] * (12 - len(tokens))
        assert mask.tolist() == [i < len(tokens) for i in range(12)]


def test_a_dropped_caption_becomes_the_tokens_of_the_empty_caption(make: Callable[..., Examples]):
    batch = make(caption_drop=1.0)[Cut(0, 0, 10)]
    assert batch.token_ids[:, 0].tolist() == [1] * 10
    assert batch.mask.sum(1).tolist() == [1] * 10


def test_captions_and_labels_are_dropped_in_a_tenth_of_400_examples(make: Callable[..., Examples]):
    examples = make(caption_drop=0.1, null_label=5, label_drop=0.1)
    batches = [examples[Cut(k, 0, 10)] for k in range(40)]
    empty = torch.cat([batch.mask.sum(1) == 1 for batch in batches])
    null = torch.cat([batch.label == 5 for batch in batches])
    assert 20 <= empty.sum() <= 62
    assert torch.equal(empty, null)  # one draw decides, so the two never part


def test_the_first_caption_is_taken_unless_a_random_one_is_asked_for(make: Callable[..., Examples]):
    def first_letters(choice: str) -> set[str]:
        examples = make(caption_choice=choice)
        return {chr(i) for k in range(4) for i in examples[Cut(k, 0, 10)].token_ids[:, 0]}

    assert first_letters("first") == {"r"}
    assert first_letters("random") == {"r", "a"}


def test_a_flip_mirrors_about_half_of_the_images(make: Callable[..., Examples], numbered: type, monkeypatch):
    plain = numbered.read

    def ramp(self, row: int):
        sample = plain(self, row)
        sample.image[:] = np.arange(sample.image.shape[1], dtype=np.uint8)[:, None] * 4
        return sample

    monkeypatch.setattr(numbered, "read", ramp)
    images = torch.cat([make(flip=True)[Cut(k, 0, 10)].images[:, 0, 0] for k in range(1)])
    rising = images[:, 0] < images[:, -1]
    assert 0 < rising.sum() < 10
    still = make(flip=False)[Cut(0, 0, 10)].images[:, 0, 0]
    torch.testing.assert_close(torch.where(rising[:, None], images, images.flip(1)), still)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_tokens": 3}, "tokens where max_tokens is 3"),
        ({"null_label": 2}, "not one of the 2 classes"),
    ],
)
def test_a_sample_that_does_not_fit_is_named(make: Callable[..., Examples], changes: dict, words: str):
    with pytest.raises(ValueError, match=r"^00\d\d[ :].*" + words):
        make(**changes)[Cut(0, 0, 10)]


@pytest.mark.parametrize(("missing", "words"), [("captions", "has no caption"), ("label", "has no label")])
def test_a_source_without_captions_or_labels_is_refused_where_they_are_needed(
    make: Callable[..., Examples], numbered: type, monkeypatch, missing: str, words: str
):
    plain = numbered.read
    absent = {"captions": (), "label": None}[missing]
    monkeypatch.setattr(numbered, "read", lambda self, row: plain(self, row)._replace(**{missing: absent}))
    with pytest.raises(ValueError, match=words):
        make(null_label=5)[Cut(0, 0, 1)]


def test_a_bucket_that_the_autoencoder_cannot_divide_is_refused(make: Callable[..., Examples]):
    with pytest.raises(ValueError, match="bucket 16x16 is not a multiple of 32 pixels"):
        make(latent_stride=32)


def test_a_bad_sample_is_replaced_by_the_plans_substitute_and_told_whatever_the_cut(
    make: Callable[..., Examples], numbered: type, monkeypatch: pytest.MonkeyPatch
):
    examples = make(flip=True)
    planned = examples.plan.batch(7)
    bad = int(planned.rows[4])
    plain, whole = numbered.read, examples[Cut(7, 0, 10)]
    stand_in = next(row for row in range(40) if row not in planned.rows and row % 2 == bad % 2)

    def read(self, row: int):
        if row == bad:
            raise BadSample(self.key(row), "its bytes have changed")
        return plain(self, row)

    monkeypatch.setattr(numbered, "read", read)
    monkeypatch.setattr(examples.plan, "substitute", lambda _k, _position, _attempt: stand_in, raising=False)
    batch = examples[Cut(7, 0, 10)]
    replaced = [position for position in range(10) if planned.rows[position] == bad]
    assert batch.faults == tuple(Fault(7, position, f"{bad:04d}", "its bytes have changed") for position in replaced)
    assert [i for i in range(10) if batch.keys[i] != whole.keys[i]] == replaced
    assert {batch.keys[i] for i in replaced} == {f"{stand_in:04d}"}
    assert torch.equal(batch.noise, whole.noise)  # the place keeps its noise and its time
    assert torch.equal(batch.u, whole.u)
    assert_equal(joined([examples[Cut(7, 0, 5)], examples[Cut(7, 5, 10)]]), batch)
