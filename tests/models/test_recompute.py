"""Laws of activation checkpointing: the same bits from less memory, and dear results computed once."""

from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from pixart.models import linear
from pixart.models.linear import OPERATOR
from pixart.models.recompute import DEAR

WAYS = ("none", "selective", "blocks")
NORM, GELU, PRODUCTS = "aten::native_layer_norm", "aten::gelu", ("aten::addmm", "aten::mm", OPERATOR)
ATTENTION = "aten::_scaled_dot_product_flash_attention_for_cpu"


class Watch(TorchDispatchMode):
    """Counts operators, and the bytes that they left and that are still held."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counter[str]()
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, operator, _types, args=(), kwargs=None):
        made = operator(*args, **(kwargs or {}))
        self.counts[operator._schema.name] += 1
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return made

    def held(self) -> int:
        return sum(nbytes for storage, nbytes in self._made.values() if not storage.expired())


def grid(side: int) -> Tensor:
    return torch.randn(2, 4, side, side, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("adaln", ["single", "per_block"])
def test_all_3_ways_give_the_same_output_and_gradients_to_the_bit(small, randomise, captioned, x_t, t, adaln):
    seen = []
    for way in WAYS:
        model = randomise(small(checkpointing=way, adaln=adaln)).train()
        output = model(x_t, t, captioned)
        output.square().sum().backward()
        seen.append([output, *(parameter.grad for parameter in model.parameters())])
    for others in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], others, strict=True))


@pytest.mark.parametrize("way", WAYS)
def test_no_generator_is_saved_or_set_back_for_a_block(small, captioned, x_t, t, way, monkeypatch):
    model, saved = small(checkpointing=way).train(), []
    read = torch.get_rng_state
    monkeypatch.setattr(torch, "get_rng_state", lambda: saved.append(1) or read())
    model(x_t, t, captioned).sum().backward()
    assert not saved


def test_blocks_run_again_in_training_only(small, randomise, captioned, x_t, t):
    for way, again in (("none", 0), ("selective", 1), ("blocks", 1)):
        model, calls = randomise(small(checkpointing=way)).train(), []
        model.blocks[0].attn.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        model(x_t, t, captioned).sum().backward()
        assert len(calls) == 1 + again
        model.eval()(x_t, t, captioned).sum().backward()
        assert len(calls) == 2 + again


@pytest.mark.parametrize("narrowest", [1, linear.NARROWEST])
def test_selective_computes_norms_and_gelu_twice_and_no_matrix_product_or_attention(
    small, randomise, captioned, x_t, t, narrowest, monkeypatch
):
    monkeypatch.setattr(linear, "NARROWEST", narrowest)
    monkeypatch.setattr(linear, "MANY", 1)
    monkeypatch.setattr(linear, "ONEDNN", lambda x, weight, bias, *_: F.linear(x, weight, bias))
    counts = {}
    for way in WAYS:
        model = randomise(small(checkpointing=way)).train()
        with Watch() as watch:
            model(x_t, t, captioned).sum().backward()
        counts[way] = watch.counts
    again = {way: counts[way] - counts["none"] for way in WAYS}
    assert {again["selective"][name] for name in DEAR} == {0}
    assert (again["selective"][NORM], again["selective"][GELU]) == (4, 2)  # 2 and 1 in each of 2 blocks
    assert (sum(again["blocks"][name] for name in PRODUCTS), again["blocks"][ATTENTION]) == (2 * 7, 2 * 2)


@pytest.mark.parametrize("autocast", [False, True])
def test_selective_holds_between_a_quarter_and_three_quarters_of_what_is_saved_otherwise(
    small, randomise, captioned, t, autocast
):
    held = {}
    for way in WAYS:
        model = randomise(small(checkpointing=way, depth=4)).train()
        with Watch() as watch, torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            output = model(grid(32), t, captioned)
        held[way] = watch.held()
        output.sum().backward()
    saved = held["none"] - held["blocks"]
    assert 0.25 * saved < held["selective"] - held["blocks"] < 0.75 * saved


def test_a_model_that_recomputes_compiles_to_the_same_numbers(small, randomise, captioned, x_t, t):
    model = randomise(small(checkpointing="selective")).train()
    traced = torch.compile(model, backend="aot_eager")
    plain = torch.autograd.grad(model(x_t, t, captioned).square().sum(), list(model.parameters()))
    again = torch.autograd.grad(traced(x_t, t, captioned).square().sum(), list(model.parameters()))
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
