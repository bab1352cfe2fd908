"""The learning rate is a function of the step; decay spares what it should; a bad update is not made."""

import pytest
import torch
from torch import nn

from pixart.training.optim import make_optimizer, rate_at, set_learning_rate, skip_if


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.blocks = nn.ModuleList([nn.Linear(4, 8)])
        self.scale_shift_table = nn.Parameter(torch.randn(6, 4))


def optimizer_of(model: nn.Module, decay: str = "matrices", **more: float) -> torch.optim.AdamW:
    return make_optimizer(
        model,
        lr=0.1,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.03,
        decay=decay,  # type: ignore[arg-type]
        **more,
    )


def test_the_warm_up_rises_in_equal_steps_to_the_peak_and_stays() -> None:
    rates = [rate_at(step, steps=100, warmup_steps=4, decay="none") for step in range(6)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert rate_at(0, steps=100, warmup_steps=0, decay="none") == 1.0


def test_a_rate_that_falls_does_so_from_the_end_of_the_warm_up_to_zero_at_the_last_step() -> None:
    linear, cosine = ([rate_at(s, steps=12, warmup_steps=2, decay=d) for s in range(13)] for d in ("linear", "cosine"))
    assert linear[:3] == [0.5, 1.0, 1.0]
    assert linear[2:] == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    assert cosine[7] == pytest.approx(0.5)
    assert linear[12] == cosine[12] == 0.0


def test_decay_falls_on_matrices_and_spares_biases_and_tables_unless_told_otherwise() -> None:
    model = Named()
    decayed, spared = optimizer_of(model).param_groups
    assert [p.shape for p in decayed["params"]] == [(4, 4), (8, 4)]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.03, 0.0)
    (every,) = optimizer_of(model, "every_tensor").param_groups
    assert len(every["params"]) == 5


def test_muon_takes_the_matrices_of_the_blocks_at_a_rate_of_their_own_that_falls_with_the_others() -> None:
    optimizer = optimizer_of(Named(), matrix_lr=0.5)
    decayed, spared, muon = optimizer.param_groups
    assert [p.shape for p in muon["params"]] == [(8, 4)]
    assert [p.shape for p in decayed["params"]] == [(4, 4)]
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in (muon, decayed, spared)] == [0.25, 0.05, 0.05]


@pytest.mark.parametrize("bad", [True, False])
@pytest.mark.parametrize("more", [{}, {"matrix_lr": 0.1}])
def test_a_masked_update_changes_neither_weights_nor_optimizer_state(bad: bool, more: dict[str, float]) -> None:
    model = Named()
    optimizer = optimizer_of(model, **more)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.full_like(p, float("nan") if bad else 1.0)
    skip_if(optimizer, torch.tensor(bad))
    optimizer.step()
    assert {torch.equal(p, before[name]) for name, p in model.named_parameters()} == {bad}
    assert all(torch.isfinite(value).all() for state in optimizer.state.values() for value in state.values())
    steps = [state["step"].item() for state in optimizer.state.values() if "step" in state]
    assert set(steps) == {0 if bad else 1}
