"""Samplers against data whose best denoiser is known in closed form: every pixel is N(MEAN, STD^2)."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pixart.batch import Conditioning, Denoiser
from pixart.diffusion.flow import Flow
from pixart.diffusion.gaussian import Gaussian
from pixart.diffusion.sampler import make_scheduler, sample

Make = Callable[..., Gaussian]
MEAN, STD = 0.5, 0.6
NOTHING = Conditioning()


def noise(rows: int = 4, side: int = 32) -> Tensor:
    return torch.randn(rows, 4, side, side, generator=torch.Generator().manual_seed(0))


def generators(rows: int = 4) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(row) for row in range(rows)]


def exact(objective: Gaussian | Flow) -> Denoiser:
    """E[target | x_t] of the objective on that data, in float64 from t alone."""

    def denoiser(x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:  # noqa: ARG001
        if isinstance(objective, Flow):
            rate = (t.double() / 1000).view(-1, 1, 1, 1)
            signal = 1 - rate
        else:
            kept = objective.alphas_cumprod[t].view(-1, 1, 1, 1)
            signal, rate = kept.sqrt(), (1 - kept).sqrt()
        x0 = MEAN + signal * STD**2 / ((signal * STD) ** 2 + rate**2) * (x_t.double() - signal * MEAN)
        eps = (x_t.double() - signal * x0) / rate
        if isinstance(objective, Flow):
            return (eps - x0).float()
        output = {"eps": eps, "x0": x0, "velocity": signal * eps - rate * x0}[objective.prediction].float()
        return torch.cat([output, torch.full_like(output, 1e6)], dim=1) if objective.learned_variance else output

    return denoiser


def drawn(objective: Gaussian | Flow, name: str, steps: int) -> Tensor:
    scheduler = make_scheduler(objective, name)
    kwargs = {"guidance_scale": 1.0, "num_inference_steps": steps, "generators": generators()}
    return sample(exact(objective), scheduler, noise(), NOTHING, None, **kwargs)


@pytest.mark.parametrize("prediction", ["eps", "velocity", "x0"])
@pytest.mark.parametrize(
    ("name", "steps", "tolerance"),
    [
        *(("dpm_solver", 20, 0.03), ("dpm_solver_logsnr", 20, 0.02), ("ddim", 100, 0.02), ("ddpm", 500, 0.015)),
        ("sa_solver", 50, 0.02),
    ],
)
def test_an_exact_gaussian_denoiser_is_sampled_to_mean_0_5_and_std_0_6(
    make_gaussian: Make, prediction: str, name: str, steps: int, tolerance: float
) -> None:
    latents = drawn(make_gaussian(prediction=prediction), name, steps)
    assert latents.shape == (4, 4, 32, 32)
    assert latents.mean().item() == pytest.approx(MEAN, abs=0.015)
    assert latents.std().item() == pytest.approx(STD, abs=tolerance)


@pytest.mark.parametrize("name", ["dpm_solver", "dpm_solver_logsnr", "ddim"])
def test_the_cosine_schedule_is_sampled_to_mean_0_5_and_std_0_6(make_gaussian: Make, name: str) -> None:
    latents = drawn(make_gaussian(schedule="cosine"), name, 100)
    assert latents.mean().item() == pytest.approx(MEAN, abs=0.015)
    assert latents.std().item() == pytest.approx(STD, abs=0.015)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(("name", "steps"), [("dpm_solver", 20), ("ddim", 100), ("euler", 100)])
def test_an_exact_flow_is_sampled_to_mean_0_5_and_std_0_6(shift: float, name: str, steps: int) -> None:
    latents = drawn(Flow(shift=shift, time_sampling="uniform"), name, steps)
    assert latents.mean().item() == pytest.approx(MEAN, abs=0.015)
    assert latents.std().item() == pytest.approx(STD, abs=0.015)


@pytest.mark.parametrize("steps", [30, 61])
def test_ddim_equals_its_published_step_in_float64_for_30_and_61_steps(make_gaussian: Make, steps: int) -> None:
    objective = make_gaussian()
    times: list[int] = []

    def remembering(x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        times.append(int(t[0]))
        return exact(objective)(x_t, t, cond)

    kwargs = {"guidance_scale": 1.0, "num_inference_steps": steps}
    got = sample(remembering, make_scheduler(objective, "ddim"), noise(1, 4), NOTHING, None, **kwargs)
    assert len(times) == steps
    x, kept = noise(1, 4).double(), [*objective.alphas_cumprod[times].tolist(), 1.0]
    for time, now, after in zip(times, kept, kept[1:], strict=False):
        eps = exact(objective)(x.float(), torch.tensor([time]), NOTHING)[:, :4].double()
        x = after**0.5 * (x - (1 - now) ** 0.5 * eps) / now**0.5 + (1 - after) ** 0.5 * eps
    torch.testing.assert_close(got.double(), x, rtol=1e-4, atol=1e-4)


def times_told(objective: Gaussian | Flow, name: str, steps: int) -> Tensor:
    told: list[Tensor] = []

    def denoiser(x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:  # noqa: ARG001
        told.append(t)
        return torch.zeros(len(x_t), objective.out_channels(4), *x_t.shape[2:])

    kwargs = {"guidance_scale": 1.0, "num_inference_steps": steps, "generators": generators(2)}
    sample(denoiser, make_scheduler(objective, name), noise(2, 2), NOTHING, None, **kwargs)
    assert all(torch.equal(t, t[:1].expand(2)) for t in told)
    return torch.stack([t[0] for t in told])


class Moved(TorchDispatchMode):
    """How often something was copied from the CPU to the meta device."""

    count = 0

    def __torch_dispatch__(self, operator, _types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = operator(*args, **(kwargs or {}))
        if operator._schema.name == "aten::_to_copy":
            self.count += args[0].device.type != made.device.type == "meta"
        return made


@pytest.mark.parametrize("name", ["dpm_solver", "dpm_solver_official"])
def test_the_times_reach_the_device_of_the_latents_once_for_all_steps(make_gaussian: Make, name: str) -> None:
    told: list[Tensor] = []

    def denoiser(x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:  # noqa: ARG001
        told.append(t)
        return torch.zeros_like(x_t).repeat(1, 2, 1, 1)

    with Moved() as moved:
        sample(
            denoiser, make_scheduler(make_gaussian(), name), noise(2, 2).to("meta"), NOTHING, None,
            guidance_scale=1.0, num_inference_steps=5,
        )  # fmt: skip
    assert [t.device.type for t in told] == ["meta"] * 5
    assert moved.count == 1 + 1  # the noise, and the times


def test_the_20_steps_of_dpm_solver_are_the_official_times_rounded(make_gaussian: Make) -> None:
    told = times_told(make_gaussian(), "dpm_solver", 20)
    assert told.tolist() == [round(999 - 49.95 * i) for i in range(20)]
    assert told.dtype == torch.int64


def test_the_100_steps_of_ddpm_are_those_of_improved_ddpm(make_gaussian: Make) -> None:
    assert times_told(make_gaussian(), "ddpm", 100).tolist() == [round(999 / 99 * i) for i in reversed(range(100))]


def test_the_25_steps_of_sa_solver_are_the_official_times_rounded(make_gaussian: Make) -> None:
    assert times_told(make_gaussian(), "sa_solver", 25).tolist() == [round(999 - 39.96 * i) for i in range(25)]


def test_sa_solver_adds_noise_between_800_and_200_and_nowhere_else(make_gaussian: Make) -> None:
    objective, noises = make_gaussian(prediction="x0"), []

    def denoiser(x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:  # noqa: ARG001
        noises.append((int(t[0]), x_t))
        return torch.zeros(2, 8, 2, 2)

    for rows in ([1, 2], [3, 4]):
        draws = [torch.Generator().manual_seed(row) for row in rows]
        scheduler = make_scheduler(objective, "sa_solver")
        kwargs = {"guidance_scale": 1.0, "num_inference_steps": 25, "generators": draws}
        sample(denoiser, scheduler, noise(2, 2), NOTHING, None, **kwargs)
    same = {t: torch.equal(a, b) for (t, a), (_, b) in zip(noises[:25], noises[25:], strict=True)}
    assert {t for t, equal in same.items() if equal} == {t for t in same if t > 760}  # the step from 799 is noisy
    # Towards a clean picture of 0 a step without noise is a multiplication.
    spread = {t: (after / before).std().item() for (t, before), (_, after) in itertools.pairwise(noises[:25])}
    assert {t for t, value in spread.items() if value < 1e-5} == {t for t in spread if t > 800 or t < 200}


def test_a_flow_model_is_told_1000_s_with_its_fraction() -> None:
    flow = Flow(shift=3.0, time_sampling="uniform")
    told = times_told(flow, "dpm_solver", 20)
    scheduler = make_scheduler(flow, "dpm_solver")
    scheduler.set_timesteps(20)
    torch.testing.assert_close(told, 1000 * scheduler.sigmas[:-1])
    assert (told != told.round()).any()


def test_4_euler_steps_with_shift_3_are_even_before_the_shift() -> None:
    told = times_told(Flow(shift=3.0, time_sampling="uniform"), "euler", 4)
    s = torch.tensor([1, 0.75, 0.5, 0.25])
    torch.testing.assert_close(told, 1000 * 3 * s / (1 + 2 * s))


@pytest.mark.parametrize("name", ["dpm_solver", "ddim", "ddpm", "sa_solver"])
def test_one_scheduler_used_2_times_gives_the_same_latents(make_gaussian: Make, name: str) -> None:
    objective = make_gaussian()
    scheduler = make_scheduler(objective, name)
    first, second = (
        sample(
            exact(objective), scheduler, noise(2, 4), NOTHING, None,
            guidance_scale=1.0, num_inference_steps=7, generators=generators(2),
        )
        for _ in range(2)
    )  # fmt: skip
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["ddpm", "sa_solver"])
def test_where_noise_is_drawn_row_2_does_not_depend_on_its_3_neighbours(make_gaussian: Make, name: str) -> None:
    objective = make_gaussian()
    kwargs = {"guidance_scale": 1.0, "num_inference_steps": 5}
    scheduler = make_scheduler(objective, name)
    all_rows = sample(exact(objective), scheduler, noise(), NOTHING, None, **kwargs, generators=generators())
    alone = sample(exact(objective), scheduler, noise()[2:3], NOTHING, None, **kwargs, generators=generators()[2:3])
    torch.testing.assert_close(alone, all_rows[2:3])


def test_guidance_reaches_the_sampler_and_progress_counts_to_3(make_gaussian: Make) -> None:
    rows: list[int] = []
    ticks: list[tuple[int, int]] = []

    def denoiser(x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:  # noqa: ARG001
        rows.append(len(x_t))
        return torch.zeros(len(x_t), 8, 2, 2)

    label = torch.zeros(2, dtype=torch.int64)
    cond, null = Conditioning(label=label), Conditioning(label=label + 9)
    sample(
        denoiser, make_scheduler(make_gaussian(), "dpm_solver"), noise(2, 2), cond, null,
        guidance_scale=4.5, num_inference_steps=3, progress=lambda done, total: ticks.append((done, total)),
    )  # fmt: skip
    assert rows == [4, 4, 4]
    assert ticks == [(1, 3), (2, 3), (3, 3)]


def test_a_scheduler_of_the_other_kind_0_steps_and_missing_generators_are_refused_in_one_sentence(
    make_gaussian: Make,
) -> None:
    with pytest.raises(ValueError, match="scheduler: 'euler' is not one of dpm_solver"):
        make_scheduler(make_gaussian(), "euler")
    with pytest.raises(ValueError, match="scheduler: 'ddpm' is not one of dpm_solver, ddim, euler"):
        make_scheduler(Flow(shift=1.0, time_sampling="uniform"), "ddpm")
    for name in ("sa_solver", "iddpm", "dpm_solver_official"):
        with pytest.raises(ValueError, match=f"scheduler: '{name}' is not one of dpm_solver, ddim, euler"):
            make_scheduler(Flow(shift=1.0, time_sampling="uniform"), name)
    with pytest.raises(ValueError, match="num_inference_steps: 0 must be from 1 to 999"):
        drawn(make_gaussian(), "dpm_solver", 0)
    with pytest.raises(ValueError, match="a scheduler that draws noise at every step"):
        sample(
            exact(make_gaussian()), make_scheduler(make_gaussian(), "ddpm"), noise(), NOTHING, None,
            guidance_scale=1.0, num_inference_steps=2,
        )  # fmt: skip
