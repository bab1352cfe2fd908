"""State comes back under names, whatever numbers an optimizer gives."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pixart.training.checkpoints.state import joined, load_optimizer_state, optimizer_state, split

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(), st.lists(st.integers()), st.integers(0, 3).map(torch.arange)
)
NESTED = st.dictionaries(st.text(), st.recursive(LEAVES, lambda one: st.dictionaries(st.text(), one), max_leaves=8))


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


@settings(max_examples=50, deadline=None)
@given(NESTED)
def test_split_and_joined_are_inverse_whatever_the_keys(state: dict[str, Any]) -> None:
    """Keys with slashes and tildes and empty ones too, and mappings that are empty."""
    tensors, values = split(state)
    assert all(isinstance(tensor, Tensor) for tensor in tensors.values())
    assert equal(joined(tensors, values), state)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))


def learnt(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[Tensor]:
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.full((1, 3), float(step))).sum().backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


def made(model: nn.Module, *, swapped: bool) -> torch.optim.AdamW:
    groups = [{"params": list(part.parameters()), "weight_decay": decay} for part, decay in
              zip(model.children(), (0.1, 0.0), strict=True)]  # fmt: skip
    for group in groups:
        group["params"] = group["params"][:: -1 if swapped else 1]
    return torch.optim.AdamW(groups, lr=0.1, betas=(0.8, 0.9), fused=True)


def test_an_optimizer_that_numbers_otherwise_goes_on_bit_for_bit() -> None:
    model = network()
    optimizer = made(model, swapped=False)
    learnt(model, optimizer, 3)
    optimizer.param_groups[0]["betas"] = (0.7, 0.9)  # an option that changed on the way
    state = copy.deepcopy(optimizer_state(model, optimizer))
    other = copy.deepcopy(model)
    other_optimizer = made(other, swapped=True)
    state["groups"]["0"]["betas"] = [0.7, 0.9]  # as JSON has it
    load_optimizer_state(other, other_optimizer, state)
    assert other_optimizer.param_groups[0]["betas"] == (0.7, 0.9)
    for mine, theirs in zip(learnt(model, optimizer, 3), learnt(other, other_optimizer, 3), strict=True):
        assert torch.equal(mine, theirs)


def test_a_parameter_that_was_never_moved_has_0_entries() -> None:
    model = network()
    optimizer = made(model, swapped=False)
    model[0].requires_grad_(False)
    learnt(model, optimizer, 1)
    state = optimizer_state(model, optimizer)
    assert state["state"].keys() == {"1.weight", "1.bias"}
    load_optimizer_state(model, optimizer, state)
    with pytest.raises(KeyError):
        load_optimizer_state(model, optimizer, {"state": {}, "groups": {}})
