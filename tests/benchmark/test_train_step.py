"""A training step of ours and of the peers is the same work before it is timed."""

import json
from pathlib import Path

import pytest
import torch
from measuring import composed, measured
from torch.utils.flop_counter import FlopCounterMode

from pixart.benchmark import peers, train_step
from pixart.benchmark.ceilings import Layers, copy_rate
from pixart.benchmark.examples import Text, make_examples
from pixart.benchmark.peers import twin
from pixart.benchmark.step import TrainingStep
from pixart.models.dit import PixArt
from pixart.models.flops import Product

TINY = [
    *("device=cpu", "model.dim=48", "model.num_heads=4", "text={dim:20,mean:3,longest:6}", "copy_mib.cpu=1"),
    *("compilation.backend=eager", "cpu.two_blocks.resolution=32", "cpu.two_blocks.depth=2", "cpu.two_blocks.batch=2"),
]


@pytest.mark.parametrize("more", [[], ["optimizer.cpu=true", "cpu.two_blocks.checkpointing=blocks"]])
def test_four_contenders_of_equal_losses_are_timed_beside_the_ceilings(tmp_path: Path, more: list[str]):
    figures = measured("train_step", tmp_path, *TINY, *more)
    for contender in ("eager", "compiled", "ours", "ours_compiled"):
        for key in ("images_per_second", "tflops", "share_of_matmul", "first_step"):
            assert figures[f"two_blocks: {contender} {key}"].value > 0
        assert figures[f"two_blocks: {contender} matrix products"].unit == "ms of the CPU a step"
    assert figures["two_blocks: ratio_vs_eager"].target == "<= 0.82"
    assert figures["two_blocks: ratio_vs_compiled"].target == "<= 1.0"
    assert figures["two_blocks: plain_ratio_vs_eager"].target is None
    assert figures["two_blocks: matmul ceiling at the step's own sizes"].value > 0
    assert figures["copy ceiling of the device's memory"].value > 0


@pytest.mark.parametrize(
    "changed",
    [
        lambda peer: torch.nn.init.constant_(peer.proj_out.weight, 0.01),
        lambda peer: peer.pos_embed.proj.weight.register_hook(lambda gradient: 1.1 * gradient),  # of the same loss
    ],
)
def test_a_peer_that_computes_something_else_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed):
    made = peers.theirs

    def other(model, **settings):
        peer = made(model, **settings)
        changed(peer)
        return peer

    monkeypatch.setattr(peers, "theirs", other)
    with pytest.raises(ValueError, match=r"ours computes something else: .* of the largest value apart"):
        measured("train_step", tmp_path, *TINY)


def test_of_4_contenders_only_those_of_the_case_are_built_and_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ours = ["ours_compiled", "ours"]
    monkeypatch.setattr(peers, "theirs", lambda *_, **__: pytest.fail("a peer was built"))
    figures = measured("train_step", tmp_path, *TINY, f"cpu.two_blocks.contenders=[{','.join(ours)}]")
    timed = [name.split()[1] for name in figures if name.endswith("images_per_second")]
    assert timed == ours
    assert not any("ratio" in name for name in figures)


def test_2_contenders_have_the_1_ratio_of_the_two(tmp_path: Path):
    figures = measured(
        "train_step", tmp_path, *TINY, "cpu.two_blocks.contenders=[eager,ours_compiled]", "optimizer.cpu=true"
    )
    assert {name for name in figures if "ratio" in name} == {"two_blocks: ratio_vs_eager"}


@pytest.mark.parametrize(
    ("contenders", "told"),
    [
        ("[]", "contenders: .* at least 1"),
        ("[eager,compiled]", "contenders: of eager, compiled none is ours: add ours"),
    ],
)
def test_a_case_with_none_of_ours_is_one_sentence(tmp_path: Path, contenders: str, told: str):
    with pytest.raises(ValueError, match=rf"cpu.two_blocks.{told}"):
        measured("train_step", tmp_path, *TINY, f"cpu.two_blocks.contenders={contenders}")


def test_a_contender_that_does_not_fit_leaves_its_gradients_and_averages_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole, released = TrainingStep.learnt, []

    def learnt(one: TrainingStep) -> tuple[torch.Tensor, torch.Tensor]:
        found = whole(one)
        if isinstance(one.model, PixArt):
            return found
        one._loss().backward()
        raise torch.OutOfMemoryError

    def release(one: TrainingStep) -> None:
        assert one.optimizer is not None
        assert one.optimizer.state
        drop(one)
        released.append(sum(p.grad is not None for p in one.model.parameters()) + len(one.optimizer.state))

    drop = TrainingStep.release
    monkeypatch.setattr(TrainingStep, "learnt", learnt)
    monkeypatch.setattr(TrainingStep, "release", release)
    said: list[str] = []
    figures = measured("train_step", tmp_path, *TINY, "optimizer.cpu=true", said=said)
    assert released == [0, 0]
    assert [line.split()[0] for line in said if "does not fit" in line] == ["eager", "compiled"]
    assert {name.split()[1] for name in figures if name.endswith("images_per_second")} == {"ours", "ours_compiled"}


def test_nothing_is_built_before_the_peer_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    order: list[str] = []
    for module, name in ((train_step, "their_class"), (train_step, "ours")):
        made = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, name=name, made=made, **k: (order.append(name), made(*a, **k))[1])
    measured("train_step", tmp_path, *TINY, "cpu.two_blocks.contenders=[ours]")
    assert order == ["their_class", "ours"]


@pytest.mark.parametrize("wanted", [True, False])
def test_every_contender_multiplies_in_tf32_or_none_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: bool):
    before, found = torch.backends.cuda.matmul.allow_tf32, set()
    whole = TrainingStep._learn

    def learn(one: TrainingStep) -> torch.Tensor:
        found.add((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
        return whole(one)

    monkeypatch.setattr(TrainingStep, "_learn", learn)
    measured("train_step", tmp_path, *TINY, f"tf32={wanted}")
    assert found == {(wanted, wanted)}
    assert torch.backends.cuda.matmul.allow_tf32 == before


def test_captions_of_mean_3_have_3_real_tokens_each_on_average():
    text = Text(dim=5, mean=3, longest=8)
    made = make_examples(5, shape=(4, 4, 4), text=text, dtype=torch.float32, device=torch.device("cpu"), seed=0)
    assert made.cond.mask is not None
    assert made.cond.mask.sum() == made.text_tokens == 15
    assert made.cond.mask.any(dim=1).all()
    assert len(set(made.cond.mask.sum(dim=1).tolist())) > 1
    assert made.x0.shape == (5, 4, 4, 4)
    assert made.cond.places is not None
    assert torch.equal(made.cond.places, made.cond.mask.flatten().nonzero().squeeze(1))


def test_the_ceiling_does_as_many_operations_as_it_says_and_no_attention():
    products = [Product(4, 5, 6, times=3), Product(4, 2, 6, backward=1), Product(7, 7, 7, linear=False)]
    for backward in (False, True):
        layers = Layers(products, backward=backward, dtype=torch.float32, device=torch.device("cpu"))
        with FlopCounterMode(display=False) as counter:
            layers()
        assert counter.get_total_flops() == layers.flops
        assert layers.contender(4, repeats=2)() == 8


def test_a_twin_is_another_module_of_the_same_parameters():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    other = twin(module)
    assert other is not module
    assert all(a is b for a, b in zip(module.parameters(), other.parameters(), strict=True))


def test_copies_are_counted_read_and_written():
    assert copy_rate(1, rounds=3, device=torch.device("cpu")).median > 0


def test_all_8_suites_compose_with_the_one_that_leaves_torch_slower_last():
    values = composed("suite=all")
    names = list(values["suites"])
    assert set(names) == {"data", "train_step", "sample", "attention", "buckets", "memory", "tiny", "price"}
    assert names[-1] == "data"
    json.dumps(values)


def test_for_a_gpu_the_most_telling_suites_come_first_and_the_price_finds_their_rates_before_it():
    names = list(composed("suite=gpu")["suites"])
    assert set(names) == composed("suite=all")["suites"].keys() - {"data", "tiny"}
    assert names[:2] == ["train_step", "price"]


def test_a_target_that_compares_nothing_is_one_sentence(tmp_path: Path):
    with pytest.raises(ValueError, match=r"cpu.two_blocks.targets.ratio_vs_eager: 'about 1' is no target: write it as"):
        measured("train_step", tmp_path, *TINY, "cpu.two_blocks.targets.ratio_vs_eager='about 1'")
