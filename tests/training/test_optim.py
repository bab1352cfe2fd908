"""The learning rate is a function of the step; decay spares what it should; a bad update is not made."""

import pytest
import torch
from torch import nn

from pixart.training.optim import learning_rate, make_optimizer, skip_if


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.scale_shift_table = nn.Parameter(torch.randn(6, 4))


def optimizer_of(model: nn.Module, decay: str) -> torch.optim.AdamW:
    return make_optimizer(model, lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.03, decay=decay)  # type: ignore[arg-type]


def test_the_warm_up_rises_in_equal_steps_to_the_peak_and_stays() -> None:
    rates = [learning_rate(step, peak=1.0, warmup_steps=4) for step in range(6)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert learning_rate(0, peak=1.0, warmup_steps=0) == 1.0


def test_decay_falls_on_matrices_and_spares_biases_and_tables_unless_told_otherwise() -> None:
    model = Named()
    decayed, spared = optimizer_of(model, "matrices").param_groups
    assert [p.shape for p in decayed["params"]] == [(4, 4)]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.03, 0.0)
    (every,) = optimizer_of(model, "every_tensor").param_groups
    assert len(every["params"]) == 3


@pytest.mark.parametrize("bad", [True, False])
def test_a_masked_update_changes_neither_weights_nor_optimizer_state(bad: bool) -> None:
    model = Named()
    optimizer = optimizer_of(model, "matrices")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.full_like(p, float("nan") if bad else 1.0)
    skip_if(optimizer, torch.tensor(bad))
    optimizer.step()
    same = all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert same == bad
    assert all(torch.isfinite(value).all() for state in optimizer.state.values() for value in state.values())
    assert all(state["step"].item() == (0 if bad else 1) for state in optimizer.state.values())
