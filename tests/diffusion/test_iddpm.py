"""Respaced ancestral sampling against its definition, diffusers' DDPM and data whose reverse step is known."""

import math
from collections.abc import Callable

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from pixart.batch import Conditioning
from pixart.diffusion.gaussian import Gaussian
from pixart.diffusion.sampler import make_scheduler, sample

Make = Callable[..., Gaussian]
NOTHING = Conditioning()
MEAN, STD = 0.5, 0.6


def noise(rows: int = 3, side: int = 4) -> Tensor:
    return torch.randn(rows, 4, side, side, generator=torch.Generator().manual_seed(0))


def generators(rows: int = 3) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(row) for row in range(rows)]


def told(objective: Gaussian, steps: int) -> list[int]:
    return make_scheduler(objective, "iddpm").set_timesteps(steps).tolist()


def test_100_steps_are_the_golden_map_from_999_to_0(make_gaussian: Make) -> None:
    times = told(make_gaussian(), 100)
    assert times[-4:] == [30, 20, 10, 0]
    assert times == [round(k * 999 / 99) for k in reversed(range(100))]


def test_1000_steps_are_the_whole_chain_with_its_own_betas(make_gaussian: Make) -> None:
    scheduler = make_scheduler(make_gaussian(), "iddpm")
    assert scheduler.set_timesteps(1000).tolist() == list(reversed(range(1000)))
    torch.testing.assert_close(scheduler._posterior.max_log_variance.exp(), make_gaussian().betas)


@pytest.mark.parametrize("prediction", ["eps", "velocity", "x0"])
def test_7_steps_equal_the_chain_multiplied_out_in_float64(make_gaussian: Make, prediction: str) -> None:
    objective = make_gaussian(prediction=prediction)

    def denoiser(x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:  # noqa: ARG001
        return torch.cat([0.3 * (x_t + 0.001 * t[0]).sin(), (3 * x_t).cos()], dim=1)

    kwargs = {"guidance_scale": 1.0, "num_inference_steps": 7, "generators": generators()}
    got = sample(denoiser, make_scheduler(objective, "iddpm"), noise(), NOTHING, None, **kwargs)

    draws, x = generators(), noise().double()
    times = [round(k * 999 / 6) for k in range(7)]
    kept = [math.prod(1 - (1e-4 + (0.02 - 1e-4) * i / 999) for i in range(t + 1)) for t in times]
    for k in reversed(range(7)):
        output = denoiser(x, torch.tensor([times[k]]), NOTHING)
        given, v = output[:, :4], output[:, 4:]
        signal, rate = math.sqrt(kept[k]), math.sqrt(1 - kept[k])
        clean = {"eps": (x - rate * given) / signal, "x0": given, "velocity": signal * x - rate * given}[prediction]
        if k == 0:
            x = clean
            continue
        # Product of two normal laws of x_before: what x_t says, and what the clean picture says.
        step = kept[k] / kept[k - 1]
        precision = step / (1 - step) + 1 / (1 - kept[k - 1])
        mean = (math.sqrt(step) * x / (1 - step) + math.sqrt(kept[k - 1]) * clean / (1 - kept[k - 1])) / precision
        low = -math.log(precision)
        log_variance = low + (v + 1) / 2 * (math.log(1 - step) - low)
        fresh = torch.stack([torch.randn(4, 4, 4, generator=draw) for draw in draws]).double()
        x = mean + (log_variance / 2).exp() * fresh
    torch.testing.assert_close(got.double(), x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("v", "kind"), [(-1.0, "fixed_small"), (1.0, "fixed_large")])
def test_at_both_ends_of_the_variances_range_it_equals_diffusers_ddpm_over_50_steps(
    make_gaussian: Make, v: float, kind: str
) -> None:
    objective = make_gaussian()

    def denoiser(x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:  # noqa: ARG001
        return torch.cat([x_t.tanh(), torch.full_like(x_t, v)], dim=1)

    theirs = DDPMScheduler(
        **objective.scheduler_config(), clip_sample=False, timestep_spacing="linspace", variance_type=kind
    )
    ours, expected = (
        sample(
            denoiser, scheduler, noise(), NOTHING, None,
            guidance_scale=1.0, num_inference_steps=50, generators=generators(),
        )
        for scheduler in (make_scheduler(objective, "iddpm"), theirs)
    )  # fmt: skip
    scale = expected.abs().max().item()
    torch.testing.assert_close(ours / scale, expected / scale, rtol=1e-3, atol=1e-4)


def test_5_steps_draw_std_0_6_with_the_true_variance_of_the_step_and_less_with_the_posteriors(
    make_gaussian: Make,
) -> None:
    objective = make_gaussian()
    times = told(objective, 5)

    def reverse_variance(k: int) -> tuple[float, float, float]:
        """Of x_before given x_t: the true one, the posterior's, beta's."""
        now, before = objective.alphas_cumprod[times[k]].item(), objective.alphas_cumprod[times[k + 1]].item()
        beta = 1 - now / before
        small = beta * (1 - before) / (1 - now)
        unsure = STD**2 * (1 - now) / (now * STD**2 + 1 - now)  # of x0 given x_t
        return small + (math.sqrt(before) * beta / (1 - now)) ** 2 * unsure, small, beta

    def drawn(true_variance: bool) -> float:
        def denoiser(x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:  # noqa: ARG001
            kept = objective.alphas_cumprod[t[0]].item()
            clean = MEAN + math.sqrt(kept) * STD**2 / (kept * STD**2 + 1 - kept) * (x_t - math.sqrt(kept) * MEAN)
            v, k = -1.0, times.index(int(t[0]))
            if true_variance and k < 4:
                true, small, beta = reverse_variance(k)
                v = 2 * math.log(true / small) / math.log(beta / small) - 1
            eps = (x_t - math.sqrt(kept) * clean) / math.sqrt(1 - kept)
            return torch.cat([eps, torch.full_like(eps, v)], dim=1)

        kwargs = {"guidance_scale": 1.0, "num_inference_steps": 5, "generators": generators(4)}
        return sample(denoiser, make_scheduler(objective, "iddpm"), noise(4, 32), NOTHING, None, **kwargs).std().item()

    assert drawn(True) == pytest.approx(STD, abs=0.012)  # 3.5 standard errors of 16384 pixels
    assert drawn(False) < STD - 0.05


def test_under_guidance_the_variance_is_conds_own_and_the_4th_channel_moves_only_with_all(make_gaussian: Make) -> None:
    label = torch.zeros(3, dtype=torch.int64)
    cond, null = Conditioning(label=label), Conditioning(label=label + 1)
    objective = make_gaussian()

    def denoiser(x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:  # noqa: ARG001
        assert cond.label is not None
        which = cond.label.view(-1, 1, 1, 1).float()  # 0 with the prompt, 1 without
        return torch.cat([0.1 * x_t + which, 0.5 - 7 * which.expand_as(x_t)], dim=1)

    def by_hand(x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:  # noqa: ARG001
        eps = 0.1 * x_t + (1 - 3.0)  # null + 3 (cond - null)
        eps[:, 3] = 0.1 * x_t[:, 3]
        return torch.cat([eps, torch.full_like(eps, 0.5)], dim=1)

    def drawn(model: object, scale: float, channels: str) -> Tensor:
        return sample(
            model, make_scheduler(objective, "iddpm"), noise(), cond, null,
            guidance_scale=scale, num_inference_steps=4, guidance_channels=channels, generators=generators(),
        )  # fmt: skip

    torch.testing.assert_close(drawn(denoiser, 3.0, "three"), drawn(by_hand, 1.0, "all"), rtol=1e-4, atol=1e-3)
    all_channels = drawn(denoiser, 3.0, "all")
    torch.testing.assert_close(all_channels[:, :3], drawn(by_hand, 1.0, "all")[:, :3], rtol=1e-4, atol=1e-3)
    assert (all_channels[:, 3] - drawn(by_hand, 1.0, "all")[:, 3]).abs().max() > 1


def test_row_2_does_not_depend_on_its_2_neighbours(make_gaussian: Make) -> None:
    objective = make_gaussian()

    def denoiser(x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:  # noqa: ARG001
        return torch.cat([x_t.tanh(), x_t.sin()], dim=1)

    kwargs = {"guidance_scale": 1.0, "num_inference_steps": 5}
    scheduler = make_scheduler(objective, "iddpm")
    together = sample(denoiser, scheduler, noise(), NOTHING, None, **kwargs, generators=generators())
    alone = sample(denoiser, scheduler, noise()[2:], NOTHING, None, **kwargs, generators=generators()[2:])
    torch.testing.assert_close(alone, together[2:])


def test_a_model_without_learned_variance_and_1_step_are_refused_in_one_sentence(make_gaussian: Make) -> None:
    with pytest.raises(ValueError, match="scheduler: 'iddpm' needs a model that learned its variance"):
        make_scheduler(make_gaussian(learned_variance=False), "iddpm")
    with pytest.raises(ValueError, match="num_inference_steps: 1 must be from 2 to 1000"):
        sample(
            lambda x_t, t, cond: torch.cat([x_t, x_t], 1),  # noqa: ARG005
            make_scheduler(make_gaussian(), "iddpm"), noise(), NOTHING, None,
            guidance_scale=1.0, num_inference_steps=1, generators=generators(),
        )  # fmt: skip
