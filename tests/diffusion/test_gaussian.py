import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from pixart.diffusion.gaussian import Gaussian

Make = Callable[..., Gaussian]
TIMES = [0, 1, 250, 500, 999]
PREDICTIONS = ["eps", "velocity", "x0"]
SHAPE = (5, 4, 3, 2)


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def example(seed: int = 0) -> dict[str, np.ndarray]:
    return {"x0": draw(seed, *SHAPE) * 0.6, "noise": draw(seed + 1, *SHAPE), "output": draw(seed + 2, 5, 8, 3, 2)}


def single(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x).float()


def losses(objective: Gaussian, case: dict[str, np.ndarray], output: torch.Tensor | None = None):
    t = torch.tensor(TIMES)
    x0, noise = single(case["x0"]), single(case["noise"])
    output = single(case["output"]) if output is None else output
    return objective.losses(output, x0=x0, noise=noise, x_t=objective.add_noise(x0, noise, t), t=t)


def reference(case: dict[str, np.ndarray], t: int, n: int, prediction: str) -> tuple[float, float]:
    """Squared error and bound of row n in float64, from the definition of the chain with beta_1..beta_T."""
    beta = [1e-4 + (0.02 - 1e-4) * i / 999 for i in range(1000)]
    keep = [math.prod(1 - b for b in beta[: i + 1]) for i in range(1000)]
    before = keep[t - 1] if t > 0 else 1.0
    x0, noise, output = case["x0"][n], case["noise"][n], case["output"][n]
    x_t = math.sqrt(keep[t]) * x0 + math.sqrt(1 - keep[t]) * noise
    given, variance = output[:4], output[4:]
    if prediction == "eps":
        target, clean = noise, (x_t - math.sqrt(1 - keep[t]) * given) / math.sqrt(keep[t])
    elif prediction == "x0":
        target, clean = x0, given
    else:
        target = math.sqrt(keep[t]) * noise - math.sqrt(1 - keep[t]) * x0
        clean = math.sqrt(keep[t]) * x_t - math.sqrt(1 - keep[t]) * given
    mse = float(((target - given) ** 2).mean())

    at = max(t, 1)
    before_at = keep[at - 1]
    log_small = math.log((1 - before_at) / (1 - keep[at]) * beta[at])
    log_model = (variance + 1) / 2 * math.log(beta[t]) + (1 - variance) / 2 * log_small
    if t == 0:
        return mse, float(decoder_bits(x0, clean, np.exp(log_model / 2)).mean())

    def mean(x: np.ndarray) -> np.ndarray:
        of_x0 = math.sqrt(before) * beta[t] / (1 - keep[t])
        return of_x0 * x + math.sqrt(1 - beta[t]) * (1 - before) / (1 - keep[t]) * x_t

    small, model = math.exp(log_small), np.exp(log_model)
    nats = np.log(np.sqrt(model / small)) + (small + (mean(x0) - mean(clean)) ** 2) / (2 * model) - 0.5
    return mse, float(nats.mean() / math.log(2))


def decoder_bits(x0: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    def below(edge: np.ndarray) -> np.ndarray:
        z = (edge - mean) / std
        return (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))) / 2

    upper = np.where(x0 > 0.999, 1.0, below(x0 + 1 / 255))
    lower = np.where(x0 < -0.999, 0.0, below(x0 - 1 / 255))
    return -np.log2(np.maximum(upper - lower, 1e-12))


def test_alpha_bar_has_the_golden_values_at_249_500_and_999(make_gaussian: Make) -> None:
    alpha_bar = make_gaussian().alphas_cumprod
    assert alpha_bar.dtype == torch.float64
    golden = {249: 0.524085, 500: 0.0777967, 999: 4.035830e-5}
    for t, value in golden.items():
        assert alpha_bar[t].item() == pytest.approx(value, rel=2e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_losses_equal_the_closed_form_in_float64_at_5_timesteps(make_gaussian: Make, prediction: str) -> None:
    case = example()
    # A nearly right prediction at t = 0 puts the decoder's bins into play instead of the floor of their logarithm.
    near = {"eps": case["noise"][0], "velocity": case["noise"][0], "x0": case["x0"][0]}[prediction]
    case["output"][0, :4] = near + (0.002 if prediction == "x0" else 0.2) * case["output"][0, :4]
    got = losses(make_gaussian(prediction=prediction), case)
    expected = [reference(case, t, n, prediction) for n, t in enumerate(TIMES)]
    torch.testing.assert_close(got.mse, torch.tensor([mse for mse, _ in expected]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got.vlb, torch.tensor([vlb for _, vlb in expected]), rtol=1e-5, atol=1e-8)
    assert 0.1 < expected[0][1] < 5
    assert expected[0][0] > 1e-7
    torch.testing.assert_close(got.loss, got.mse + got.vlb)


def test_the_decoder_equals_the_closed_form_where_its_bins_matter_and_at_both_edges(make_gaussian: Make) -> None:
    case = example(3)
    case["x0"] = np.clip(case["x0"] * 2, -1, 1)
    case["output"][:, :4] = case["x0"] + 0.004 * case["noise"]
    expected = reference(case, 0, 0, "x0")[1]
    assert 0.1 < expected < 5
    assert losses(make_gaussian(prediction="x0"), case).vlb[0].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_bound_has_a_gradient_of_0_into_the_mean_and_another_into_the_variance(
    make_gaussian: Make, prediction: str
) -> None:
    case = example()
    output = single(case["output"]).requires_grad_()
    losses(make_gaussian(prediction=prediction), case, output).vlb.sum().backward()
    assert output.grad is not None
    assert output.grad[:, :4].abs().max() == 0
    assert (output.grad[1:, 4:].abs().amax(dim=(1, 2, 3)) > 0).all()


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_prediction_costs_0_and_its_bound_is_0_at_the_posterior_variance(
    make_gaussian: Make, prediction: str
) -> None:
    case, objective, t = example(), make_gaussian(prediction=prediction), torch.tensor(TIMES)
    x0, noise = single(case["x0"]), single(case["noise"])
    signal = objective.alphas_cumprod[t].sqrt().float().view(-1, 1, 1, 1)
    rate = (1 - objective.alphas_cumprod[t]).sqrt().float().view(-1, 1, 1, 1)
    right = {"eps": noise, "x0": x0, "velocity": signal * noise - rate * x0}[prediction]
    got = losses(objective, case, torch.cat([right, -torch.ones(SHAPE)], dim=1))
    assert got.mse.max() < 1e-12
    assert got.vlb[1:].abs().max() < 1e-6


def test_the_output_0_of_a_fresh_model_costs_1_plus_the_bound_to_1_percent(make_gaussian: Make) -> None:
    objective, rng = make_gaussian(), torch.Generator().manual_seed(0)
    x0, noise = 0.6 * torch.randn(500, 4, 4, 4, generator=rng), torch.randn(500, 4, 4, 4, generator=rng)
    t = torch.arange(0, 1000, 2)
    x_t = objective.add_noise(x0, noise, t)
    got = objective.losses(torch.zeros(500, 8, 4, 4), x0=x0, noise=noise, x_t=x_t, t=t)
    torch.testing.assert_close(got.mse, noise.square().mean(dim=(1, 2, 3)))
    assert got.mse.mean().item() == pytest.approx(1, abs=0.01)
    assert (got.loss - got.mse).min() > 0


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_add_noise_equals_diffusers_to_1e_minus_5(make_gaussian: Make, schedule: str) -> None:
    objective, t = make_gaussian(schedule=schedule), torch.tensor(TIMES)
    case = example()
    x0, noise = single(case["x0"]), single(case["noise"])
    theirs = DDPMScheduler(**objective.scheduler_config()).add_noise(x0, noise, t)
    torch.testing.assert_close(objective.add_noise(x0, noise, t), theirs, rtol=1e-5, atol=1e-5)


def test_u_from_0_to_just_below_1_stays_within_0_and_999_even_through_float32(make_gaussian: Make) -> None:
    for law in ("uniform", "logit_normal"):
        objective = make_gaussian(time_sampling=law)
        u = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
        t = objective.timesteps(u)
        assert t.dtype == torch.int64
        assert t.min() >= 0
        assert t.max() <= 999
        assert objective.timesteps(u.float()).tolist() == [0, 999]
    assert make_gaussian().timesteps(u).tolist() == [0, 999]


def test_1000_stratified_draws_hit_every_timestep_once(make_gaussian: Make) -> None:
    u = (torch.arange(1000, dtype=torch.float64) + torch.rand(1000, generator=torch.Generator().manual_seed(0))) / 1000
    assert make_gaussian().timesteps(u[torch.randperm(1000)]).sort().values.tolist() == list(range(1000))


def test_logit_normal_times_have_half_of_their_mass_between_0_34_and_0_66(make_gaussian: Make) -> None:
    u = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    t = make_gaussian(time_sampling="logit_normal").timesteps(u)
    # The quartiles of a logit-normal are the sigmoids of -0.6745 and 0.6745.
    assert t[1000].item() == pytest.approx(1000 / (1 + math.exp(0.6745)), abs=1)
    assert t[3000].item() == pytest.approx(1000 / (1 + math.exp(-0.6745)), abs=1)


def test_without_learned_variance_there_are_c_channels_and_a_bound_of_0(make_gaussian: Make) -> None:
    plain, case = make_gaussian(learned_variance=False), example()
    assert (plain.out_channels(4), make_gaussian().out_channels(4)) == (4, 8)
    got = losses(plain, case, single(case["output"][:, :4]))
    assert got.vlb.abs().max() == 0
    torch.testing.assert_close(got.mse, losses(make_gaussian(), case).mse)


def test_min_snr_weights_the_squared_error_and_leaves_the_bound_at_1(make_gaussian: Make) -> None:
    objective, case = make_gaussian(weighting="min_snr"), example()
    got, plain = losses(objective, case), losses(make_gaussian(), case)
    alpha_bar = objective.alphas_cumprod[TIMES]
    snr = alpha_bar / (1 - alpha_bar)
    torch.testing.assert_close(got.mse, plain.mse)
    torch.testing.assert_close(got.loss, (snr.clamp(max=5) / snr).float() * plain.mse + plain.vlb)


def test_a_bfloat16_output_is_judged_in_float32(make_gaussian: Make) -> None:
    case = example()
    low = single(case["output"]).bfloat16()
    got, same = losses(make_gaussian(), case, low), losses(make_gaussian(), case, low.float())
    assert {x.dtype for x in got} == {torch.float32}
    assert all(torch.equal(a, b) for a, b in zip(got, same, strict=True))


def test_losses_and_noise_read_0_values_back_to_the_host(make_gaussian: Make) -> None:
    objective = make_gaussian()
    t = objective.timesteps(torch.empty(5, dtype=torch.float64, device="meta"))  # a meta tensor has no values to read
    x0, output = torch.empty(SHAPE, device="meta"), torch.empty(5, 8, 3, 2, device="meta")
    x_t = objective.add_noise(x0, x0, t)
    assert objective.losses(output, x0=x0, noise=x0, x_t=x_t, t=t).loss.shape == (5,)


def test_wrong_names_channels_and_20_timesteps_are_refused_in_one_sentence(make_gaussian: Make) -> None:
    with pytest.raises(ValueError, match=r"objective\.schedule: 'square' is not one of linear, cosine"):
        make_gaussian(schedule="square")
    with pytest.raises(ValueError, match=r"objective\.prediction: 'noise' is not one of eps, x0, velocity"):
        make_gaussian(prediction="noise")
    with pytest.raises(ValueError, match=r"objective\.time_sampling: 'beta' is not one of uniform, logit_normal"):
        make_gaussian(time_sampling="beta")
    with pytest.raises(ValueError, match=r"objective\.num_timesteps: 20 must be above 20"):
        make_gaussian(num_timesteps=20)
    with pytest.raises(ValueError, match="gives 4 channels where the objective needs 8"):
        losses(make_gaussian(), example(), torch.zeros(SHAPE))


def test_a_chain_of_100_steps_ends_at_the_noise_of_1000(make_gaussian: Make) -> None:
    assert make_gaussian(num_timesteps=100).alphas_cumprod[-1].item() == pytest.approx(4e-5, rel=0.5)
