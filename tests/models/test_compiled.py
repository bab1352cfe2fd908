"""Laws of compiled blocks: the same numbers, one graph for all sizes, and nothing else about the model changes."""

import copy
import logging

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from pixart.batch import Conditioning
from pixart.models import compiled
from pixart.models.compiled import compile_blocks, missing_compiler

SIZES = [(2, 8, 6), (3, 12, 5), (4, 8, 9), (2, 6, 3)]  # images, latent side, caption tokens


def inputs(images: int, side: int, length: int) -> tuple[Tensor, Tensor, Conditioning]:
    generator = torch.Generator().manual_seed(images)
    mask = torch.arange(length) < torch.randint(2, length + 1, (images, 1), generator=generator)
    cond = Conditioning(tokens=torch.randn(images, length, 20, generator=generator), mask=mask)
    return torch.randn(images, 4, side, side, generator=generator), torch.arange(images) * 9, cond


def learnt(model: nn.Module, *told: object) -> list[Tensor]:
    output = model(*told)
    return [output, *torch.autograd.grad(output.square().mean(), list(model.parameters()))]


def assert_same(plain: nn.Module, other: nn.Module, sizes: list[tuple[int, int, int]]) -> None:
    for size in sizes:
        told = inputs(*size)
        for ours, theirs in zip(learnt(other, *told), learnt(plain, *told), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("checkpointing", ["none", "blocks", "selective"])
def test_1_graph_serves_all_blocks_and_4_sizes_with_the_numbers_of_eager(small, randomise, checkpointing):
    torch._dynamo.reset()
    counters.clear()
    plain, other = (randomise(small(checkpointing=checkpointing, depth=3), std=0.05).train() for _ in range(2))
    compile_blocks(other, "cpu", backend="aot_eager")
    assert_same(plain, other, SIZES)
    assert counters["stats"]["unique_graphs"] == 1
    assert_same(plain, other, [(1, 8, 4)])  # to torch a size of 1 is no symbol
    assert counters["stats"]["unique_graphs"] == 2


def test_with_static_shapes_captions_of_all_lengths_share_a_graph_and_another_batch_has_its_own(small, randomise):
    torch._dynamo.reset()
    counters.clear()
    plain, other = (randomise(small(depth=3), std=0.05).train() for _ in range(2))
    compile_blocks(other, "cuda", static=True, backend="aot_eager")  # the backend makes nothing for the device
    graphs = []
    for images, short in [(3, 2), (3, 5), (3, 1), (4, 2), (3, 3)]:
        x_t, t, cond = inputs(images, 8, 6)
        told = x_t, t, cond._replace(mask=torch.arange(6) < torch.tensor([6, *[short] * (images - 1)])[:, None])
        for ours, theirs in zip(learnt(other, *told), learnt(plain, *told), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs == [1, 1, 1, 2, 2]
    with torch.no_grad():
        for size in [(3, 8, 6), (4, 12, 6), (5, 8, 7)]:
            told = inputs(*size)
            torch.testing.assert_close(other.eval()(*told), plain.eval()(*told), rtol=1e-5, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 3


def test_options_are_handed_to_the_compiler_and_make_a_function_of_their_own(small, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda run, **told: asked.append(told["options"]) or run)
    compiled._compiled.cache_clear()
    for options in ({}, {"max_autotune": True}, {"max_autotune": True}):
        compile_blocks(small(), "cpu", backend="eager", options=options)
    compiled._compiled.cache_clear()
    assert asked == [None, {"max_autotune": True}]


def test_names_copies_and_swapped_weights_are_those_of_a_plain_model(small, randomise):
    plain, other = randomise(small()), randomise(small())
    compile_blocks(other, "cpu", backend="eager")
    assert list(other.state_dict()) == list(plain.state_dict())
    told = inputs(*SIZES[0])
    before = other(*told)
    copied = copy.deepcopy(other)
    with torch.no_grad():
        for model in (plain, copied):
            model.blocks[1].mlp.fc2.weight.mul_(2)
    torch.testing.assert_close(copied(*told), plain(*told), rtol=1e-5, atol=1e-5)
    assert torch.equal(other(*told), before)
    assert not torch.equal(copied(*told), before)


def test_without_a_compiler_blocks_stay_plain_with_1_log_line(small, monkeypatch, caplog):
    from torch._inductor import cpp_builder, exc

    def none() -> str:
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    missing_compiler.cache_clear()
    model = small()
    with caplog.at_level(logging.WARNING, logger=compiled.__name__):
        compile_blocks(model, "cpu")
    missing_compiler.cache_clear()
    assert [record.message for record in caplog.records] == [
        "compile=true has no effect: there is no C++ compiler (install g++, or set CXX)"
    ]
    model(*inputs(*SIZES[0]))


@pytest.mark.skipif(missing_compiler("cpu") is not None, reason="needs a C++ compiler")
@pytest.mark.slow
def test_kernels_made_for_the_cpu_give_the_numbers_of_eager_to_1e_5(small, randomise):
    plain, other = (randomise(small(checkpointing="selective"), std=0.05).train() for _ in range(2))
    compile_blocks(other, "cpu")
    assert_same(plain, other, SIZES)
