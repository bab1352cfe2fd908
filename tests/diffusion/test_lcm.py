"""Consistency sampling for distilled weights: its golden times, its step written out, and what it refuses."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pixart.batch import Conditioning
from pixart.diffusion.flow import Flow
from pixart.diffusion.gaussian import Gaussian
from pixart.diffusion.sampler import make_scheduler, sample

Make = Callable[..., Gaussian]
NOTHING = Conditioning()
GOLDEN = [999, 759, 519, 279]


def noise() -> Tensor:
    return torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(row) for row in range(2)]


class Model:
    """Remembers its times, and gives a variance half that must not be used."""

    def __init__(self) -> None:
        self.told: list[Tensor] = []

    def __call__(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:  # noqa: ARG002
        self.told.append(t)
        return torch.cat([0.7 * (x_t + 0.001 * t[0]).sin(), torch.full_like(x_t, 1e6)], dim=1)


def drawn(objective: Gaussian, model: Model, steps: int, scale: float = 1.0) -> Tensor:
    scheduler = make_scheduler(objective, "lcm")
    return sample(
        model, scheduler, noise(), NOTHING, None,
        guidance_scale=scale, num_inference_steps=steps, generators=generators(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "times"), [(4, GOLDEN), (1, [999]), (3, [999, 679, 359]), (50, list(range(999, 0, -20)))]
)
def test_the_model_is_told_the_official_times_for_4_1_3_and_50_steps(
    make_gaussian: Make, steps: int, times: list[int]
) -> None:
    model = Model()
    drawn(make_gaussian(), model, steps)
    assert [t.tolist() for t in model.told] == [[time, time] for time in times]


@pytest.mark.parametrize("prediction", ["eps", "velocity", "x0"])
def test_4_steps_equal_the_published_step_in_float64_and_end_on_the_last_clean_picture(
    make_gaussian: Make, prediction: str
) -> None:
    got = drawn(make_gaussian(prediction=prediction), Model(), 4)
    x, draws = noise().double(), generators()
    kept = [math.prod(1 - (1e-4 + (0.02 - 1e-4) * i / 999) for i in range(t + 1)) for t in GOLDEN]
    for k, t in enumerate(GOLDEN):
        output = Model()(x, torch.tensor([t]), NOTHING)[:, :4]
        signal, rate = math.sqrt(kept[k]), math.sqrt(1 - kept[k])
        clean = {"eps": (x - rate * output) / signal, "x0": output, "velocity": signal * x - rate * output}[prediction]
        skip, out = 0.25 / ((t / 0.1) ** 2 + 0.25), (t / 0.1) / math.sqrt((t / 0.1) ** 2 + 0.25)
        x = skip * x + out * clean
        if k < 3:
            fresh = torch.stack([torch.randn(4, 3, 3, generator=draw) for draw in draws]).double()
            x = math.sqrt(kept[k + 1]) * x + math.sqrt(1 - kept[k + 1]) * fresh
    torch.testing.assert_close(got.double(), x, rtol=1e-4, atol=1e-4)


def test_guidance_of_4_5_51_steps_no_generators_a_flow_and_49_timesteps_are_refused_in_one_sentence(
    make_gaussian: Make,
) -> None:
    with pytest.raises(ValueError, match=r"guidance_scale: 4\.5 must be 1 .* guidance distilled in"):
        drawn(make_gaussian(), Model(), 4, scale=4.5)
    with pytest.raises(ValueError, match="num_inference_steps: 51 must be from 1 to 50"):
        drawn(make_gaussian(), Model(), 51)
    with pytest.raises(ValueError, match="needs generators"):
        sample(Model(), make_scheduler(make_gaussian(), "lcm"), noise(), NOTHING, None,
               guidance_scale=1.0, num_inference_steps=4)  # fmt: skip
    with pytest.raises(ValueError, match="scheduler: 'lcm' is not one of dpm_solver, ddim, euler"):
        make_scheduler(Flow(shift=1.0, time_sampling="uniform"), "lcm")
    with pytest.raises(ValueError, match="'lcm' needs an objective of 50 timesteps or more"):
        make_scheduler(make_gaussian(num_timesteps=49), "lcm")
