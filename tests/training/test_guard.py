"""Updates that are not finite are counted, dated and traced to a module."""

import torch
from torch import nn

from pixart.training.guard import Guard, first_bad_module


def test_the_guard_counts_bad_steps_and_names_the_first() -> None:
    guard = Guard(torch.device("cpu"))
    for k, norm in enumerate([1.0, float("nan"), 2.0, float("inf")]):
        assert bool(guard.watch(torch.tensor(norm), k=k)) == (k in (1, 3))
    assert guard.found() == (2, 1)
    assert guard.found() == (0, -1)


def test_the_first_module_with_a_bad_output_is_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    assert first_bad_module(model, lambda: model(torch.ones(1, 2))) is None
    with torch.no_grad():
        model[1].weight[0, 0] = float("nan")
    assert first_bad_module(model, lambda: model(torch.ones(1, 2))) == "1"
    assert not any(module._forward_hooks for module in model.modules())
