"""The official grid of DPM-Solver++ against its golden times, a solved equation and diffusers' solver."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from pixart.batch import Conditioning, Denoiser
from pixart.diffusion.gaussian import Gaussian
from pixart.diffusion.sampler import make_scheduler, sample

Make = Callable[..., Gaussian]
NOTHING = Conditioning()
MEAN, STD = 0.5, 0.6  # of data whose best denoiser is known: every pixel is N(MEAN, STD^2)


def noise() -> Tensor:
    return torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))


def rates(objective: Gaussian, time: float) -> tuple[float, float]:
    """alpha and sigma on the straight line of log alpha between two entries of the table."""
    log_alpha = np.log(objective.alphas_cumprod.numpy()) / 2
    below = min(int(time), len(log_alpha) - 2)
    value = log_alpha[below] + (time - below) * (log_alpha[below + 1] - log_alpha[below])
    return math.exp(value), math.sqrt(1 - math.exp(2 * value))


def exact(objective: Gaussian) -> Denoiser:
    def denoiser(x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:  # noqa: ARG001
        alpha, sigma = rates(objective, float(t[0]))
        x0 = MEAN + alpha * STD**2 / ((alpha * STD) ** 2 + sigma**2) * (x_t.double() - alpha * MEAN)
        eps = (x_t.double() - alpha * x0) / sigma
        output = {"eps": eps, "x0": x0, "velocity": alpha * eps - sigma * x0}[objective.prediction]
        return torch.cat([output, torch.full_like(output, 1e6)], dim=1)

    return denoiser


def solution(objective: Gaussian, latents: Tensor, start: float) -> Tensor:
    """Where the probability-flow equation takes noise at ``start`` until t = 0: it keeps the standard score."""

    def law(time: float) -> tuple[float, float]:
        alpha, sigma = rates(objective, time)
        return alpha * MEAN, math.hypot(alpha * STD, sigma)

    (mean, std), (mean0, std0) = law(start), law(0)
    return mean0 + std0 * (latents.double() - mean) / std


def drawn(objective: Gaussian, denoiser: Denoiser, steps: int) -> Tensor:
    scheduler = make_scheduler(objective, "dpm_solver_official")
    return sample(denoiser, scheduler, noise(), NOTHING, None, guidance_scale=1.0, num_inference_steps=steps)


def test_20_steps_are_told_the_golden_times_with_their_fractions(make_gaussian: Make) -> None:
    told: list[Tensor] = []

    def denoiser(x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:  # noqa: ARG001
        told.append(t)
        return torch.zeros(len(x_t), 8, 3, 3)

    drawn(make_gaussian(), denoiser, 20)
    golden = [999, 949.05, 899.1, 849.15, 799.2, 749.25, 699.3, 649.35, 599.4, 549.45]
    golden += [499.5, 449.55, 399.6, 349.65, 299.7, 249.75, 199.8, 149.85, 99.9, 49.95]
    assert [len(t) for t in told] == [2] * 20
    torch.testing.assert_close(torch.stack([t[0] for t in told]), torch.tensor(golden))


def test_the_log_snr_of_the_last_timestep_is_the_golden_minus_5_058837(make_gaussian: Make) -> None:
    last = make_gaussian().alphas_cumprod[-1]
    assert (0.5 * torch.log(last / (1 - last))).item() == pytest.approx(-5.058837, abs=1e-6)


@pytest.mark.parametrize("prediction", ["eps", "velocity", "x0"])
def test_the_error_against_the_solved_equation_falls_4_times_when_the_steps_double(
    make_gaussian: Make, prediction: str
) -> None:
    objective = make_gaussian(prediction=prediction)
    expected = solution(objective, noise(), 999)
    errors = [(drawn(objective, exact(objective), n) - expected).abs().max().item() for n in (40, 80, 160)]
    assert errors[0] < 0.1
    assert 3 < errors[0] / errors[1] < 5
    assert 3 < errors[1] / errors[2] < 5


@pytest.mark.parametrize("steps", [27, 37, 111])
def test_with_integer_times_it_equals_diffusers_down_to_the_smallest_sigma_to_1e_minus_4(
    make_gaussian: Make, steps: int
) -> None:
    objective = make_gaussian()
    theirs = DPMSolverMultistepScheduler(
        **objective.scheduler_config(), solver_order=2, final_sigmas_type="sigma_min", lower_order_final=False
    )
    kwargs = {"guidance_scale": 1.0, "num_inference_steps": steps}
    rough = exact(make_gaussian(prediction="velocity"))  # wrong for eps, so that nothing is smoothed away
    got = drawn(objective, rough, steps)
    expected = sample(rough, theirs, noise(), NOTHING, None, **kwargs)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("steps", "lowered"), [(2, True), (9, True), (10, False)])
def test_only_below_10_steps_is_the_last_one_of_order_1(make_gaussian: Make, steps: int, lowered: bool) -> None:
    objective = make_gaussian(prediction="x0", learned_variance=False)
    cleans: list[Tensor] = []
    states: list[Tensor] = []

    def denoiser(x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:  # noqa: ARG001
        states.append(x_t.double())
        cleans.append((3 * x_t).sin())
        return cleans[-1]

    got = drawn(objective, denoiser, steps).double()
    now, after = rates(objective, 999 / steps), rates(objective, 0)
    ratio = after[1] / now[1]
    first_order = ratio * states[-1] + (after[0] - ratio * now[0]) * cleans[-1].double()
    assert torch.allclose(got, first_order, atol=1e-5) == lowered


def test_a_cosine_schedule_starts_where_its_log_snr_is_minus_5_1_and_1_step_suffices_for_a_point(
    make_gaussian: Make,
) -> None:
    objective = make_gaussian(schedule="cosine", prediction="x0")
    start = make_scheduler(objective, "dpm_solver_official").set_timesteps(20)[0].item()
    alpha, sigma = rates(objective, start)
    assert -5.1 <= math.log(alpha / sigma) < -5.0
    point = drawn(objective, lambda x_t, t, cond: torch.full((2, 8, 3, 3), 0.25), 1)  # noqa: ARG005
    assert (point - 0.25).abs().max() < 0.05  # the noise that the last entry of the table leaves in


def test_one_scheduler_used_2_times_gives_the_same_latents(make_gaussian: Make) -> None:
    objective = make_gaussian()
    scheduler, kwargs = make_scheduler(objective, "dpm_solver_official"), {"guidance_scale": 1.0}
    first, second = (
        sample(exact(objective), scheduler, noise(), NOTHING, None, **kwargs, num_inference_steps=7) for _ in range(2)
    )
    assert torch.equal(first, second)


def test_1000_steps_are_refused_and_999_are_the_most(make_gaussian: Make) -> None:
    with pytest.raises(ValueError, match="num_inference_steps: 1000 must be from 1 to 999"):
        drawn(make_gaussian(), exact(make_gaussian()), 1000)
