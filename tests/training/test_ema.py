"""Laws of the averaged weights."""

import math
from collections.abc import Callable

import pytest
import torch
from miniature import composed
from scripts import run_script
from torch import nn

from pixart.config import Config, parse
from pixart.formats.profiles import sigma_of
from pixart.training.ema import Ema

NAMES = ["decay_0.9", "decay_0.5", "power_0.05", "power_0.28"]


class Small(nn.Module):
    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("count", torch.zeros(1))
        self.register_buffer("passing", torch.zeros(1), persistent=False)


def moved(model: nn.Module, by: float) -> nn.Module:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(by)
    return model


def several(model: nn.Module, *, warmup: bool = True) -> Ema:
    return Ema(model, decay=0.9, warmup=warmup, others=[0.5], power=[0.05, 0.28])


def followed(ema: Ema, model: nn.Module, steps: int, weight: Callable[[int], float]) -> Ema:
    """``ema`` after as many steps, in step i of which all weights are ``weight(i)``."""
    for i in range(1, steps + 1):
        with torch.no_grad():
            for p in model.parameters():
                p.fill_(weight(i))
        ema.update(model)
    return ema


def test_with_warm_up_the_first_update_copies_the_weights_into_all_4_averages() -> None:
    model = Small()
    ema = several(model)
    ema.update(moved(model, 1.0))
    assert (list(ema.profiles), ema.primary) == (NAMES, NAMES[0])
    for name in NAMES:
        assert all(torch.equal(ema.averages[name][weight], p) for weight, p in model.named_parameters())


def test_an_update_moves_a_tenth_of_the_way_at_decay_09() -> None:
    model = Small()
    before = model.linear.weight.detach().clone()
    ema = Ema(model, decay=0.9, warmup=False)
    ema.update(moved(model, 1.0))
    torch.testing.assert_close(ema.tensors()["linear.weight"], before + 0.1)


def test_weights_that_never_change_stay_what_they_are_to_the_bit() -> None:
    model = Small()
    ema = followed(several(model), model, 100, lambda _: 1 / 3)
    for name in NAMES:
        assert torch.equal(ema.averages[name]["linear.bias"], torch.full((2,), 1 / 3))


def test_a_linear_ramp_of_50_steps_has_the_mean_of_its_closed_form() -> None:
    model, t = Small(), 50
    moved(model, 0.0)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    ema = followed(Ema(model, decay=0.9, warmup=False, power=[sigma_of(1.0)]), model, t, float)
    exponential, linear = (average["linear.bias"][0].item() for average in ema.averages.values())
    assert exponential == pytest.approx(t - 0.9 * (1 - 0.9**t) / (1 - 0.9), rel=1e-5)
    assert linear == pytest.approx((t + 1) * (4 * t - 1) / (6 * t), rel=1e-5)  # sum of i (2i - 1) / t^2


def test_each_average_of_30_steps_is_the_weighted_sum_that_its_profile_says() -> None:
    model, t = Small(), 30
    ema = followed(several(model), model, t, lambda i: math.sin(7 * i))
    for name, profile in ema.profiles.items():
        kept = [profile.kept(i) for i in range(1, t + 1)]
        shares = [(1 - kept[i]) * math.prod(kept[i + 1 :]) for i in range(t)]
        expected = sum(share * math.sin(7 * i) for i, share in enumerate(shares, start=1))
        assert ema.averages[name]["linear.weight"][0, 0].item() == pytest.approx(expected, abs=1e-6)


def test_averages_of_half_precision_weights_are_float32() -> None:
    model = Small().to(torch.bfloat16)
    ema = followed(several(model, warmup=False), model, 3, float)
    assert {average["linear.weight"].dtype for average in ema.averages.values()} == {torch.float32}


def test_the_context_lends_the_average_and_restores_weights_buffers_and_mode_even_after_an_error() -> None:
    model = Small().train()
    ema = several(model, warmup=False)
    moved(model, 1.0)
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def inside(profile: str | None) -> None:
        with ema.weights(model, profile) as lent:
            assert not lent.training
            assert all(torch.equal(model.state_dict()[name], one) for name, one in ema.tensors(profile).items())
            model.count += 1
            raise RuntimeError("inside")

    for profile in (None, *NAMES):
        with pytest.raises(RuntimeError, match="inside"):
            inside(profile)
        assert model.training
        assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())


def test_buffers_follow_as_they_are_and_the_state_round_trips_in_place() -> None:
    model = Small()
    ema = several(model)
    model.count += 5
    ema.update(moved(model, 1.0))
    again = several(Small())
    places = [tensor.data_ptr() for average in again.averages.values() for tensor in average.values()]
    again.load_state_dict(ema.state_dict())
    assert again.updates == 1
    assert places == [tensor.data_ptr() for average in again.averages.values() for tensor in average.values()]
    for name in NAMES:
        tensors = again.tensors(name)
        assert tensors.keys() == model.state_dict().keys()
        assert all(torch.equal(tensors[weight], value) for weight, value in ema.tensors(name).items())
        assert tensors["count"].item() == 5


def test_5_updates_a_round_trip_and_5_more_are_10_updates_to_the_bit() -> None:
    torch.manual_seed(0)
    model = Small()
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    straight, halves = several(model), several(model)
    for i in range(10):
        if i == 5:
            state, halves = halves.state_dict(), several(model)
            halves.load_state_dict(state)
        moved(model, 0.1 * i)
        for ema in (straight, halves):
            ema.update(model)
    assert not torch.equal(straight.tensors()["linear.weight"], start["linear.weight"])
    for name in NAMES:
        assert all(torch.equal(one, halves.tensors(name)[weight]) for weight, one in straight.tensors(name).items())


def test_on_2_ranks_with_shards_averages_states_and_the_lent_model_are_those_of_1_process_to_the_bit(tmp_path):
    run_script("averages.py", str(tmp_path / "meeting"))


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("ema.others=[0.995]", r"ema: 0\.995 is averaged twice: leave it out of others"),
        ("ema.power=[0.1,0.05,0.1]", r"ema: 0\.1 is averaged twice: leave it out of power"),
        ("ema.power=[0.3]", r"ema\.power\.0: input should be less than 0\.28, not 0\.3"),
        ("ema.power=[0.0001]", r"ema\.power\.0: input should be greater than or equal to 0\.001, not 0\.0001"),
    ],
)
def test_an_average_is_asked_for_once_and_in_range(override: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse(composed("+stage=1", "scale=tiny", override), Config)


def test_ema_edm2_adds_the_2_widths_of_the_paper_to_the_usual_average() -> None:
    section = parse(composed("+stage=1", "data.root=shards", "ema=edm2"), Config).ema
    assert (section.decay, section.warmup, section.others, section.power) == (0.9999, True, (), (0.05, 0.1))
