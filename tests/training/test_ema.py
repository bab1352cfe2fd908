"""Laws of the averaged weights."""

import pytest
import torch
from torch import nn

from pixart.training.ema import Ema


class Small(nn.Module):
    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("count", torch.zeros(1))


def moved(model: nn.Module, by: float) -> nn.Module:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(by)
    return model


def test_with_warm_up_the_first_update_copies_the_weights() -> None:
    model = Small()
    ema = Ema(model, decay=0.9, warmup=True)
    ema.update(moved(model, 1.0))
    for name, p in model.named_parameters():
        assert torch.equal(ema.average[name], p)


def test_an_update_moves_a_tenth_of_the_way_at_decay_09() -> None:
    model = Small()
    before = model.linear.weight.detach().clone()
    ema = Ema(model, decay=0.9, warmup=False)
    ema.update(moved(model, 1.0))
    torch.testing.assert_close(ema.average["linear.weight"], before + 0.1)


def test_the_warm_up_ends_at_the_decay_and_never_passes_it() -> None:
    ema = Ema(Small(), decay=0.99, warmup=True)
    ema.updates = 10_000
    assert ema.current_decay() == 0.99


def test_the_context_lends_the_average_and_restores_weights_and_mode_even_after_an_error() -> None:
    model = Small().train()
    ema = Ema(model, decay=0.9, warmup=False)
    moved(model, 1.0)
    kept = {name: p.detach().clone() for name, p in model.named_parameters()}

    def inside() -> None:
        with ema.weights(model) as lent:
            assert not lent.training
            assert torch.equal(model.linear.weight, ema.average["linear.weight"])
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        inside()
    assert model.training
    for name, p in model.named_parameters():
        assert torch.equal(p, kept[name])


def test_buffers_follow_as_they_are_and_the_state_round_trips() -> None:
    model = Small()
    ema = Ema(model, decay=0.9, warmup=True)
    model.count += 5
    ema.update(moved(model, 1.0))
    again = Ema(Small(), decay=0.9, warmup=True)
    again.load_state_dict(ema.state_dict())
    assert again.updates == 1
    assert again.tensors().keys() == model.state_dict().keys()
    assert all(torch.equal(again.tensors()[name], value) for name, value in ema.tensors().items())
    assert again.tensors()["count"].item() == 5
