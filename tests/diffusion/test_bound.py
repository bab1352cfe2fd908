import math

import pytest
import torch

from pixart.diffusion.bound import discretised_normal_nll, normal_cdf, normal_kl


def test_kl_of_equal_gaussians_is_0() -> None:
    log_variance = torch.linspace(-10, 3, 50)
    assert normal_kl(torch.zeros(50), log_variance, log_variance).abs().max() == 0


def test_kl_equals_the_kl_of_torch_distributions_to_1e_minus_12() -> None:
    rng = torch.Generator().manual_seed(0)
    mean1, mean2, lv1, lv2 = torch.randn(4, 200, generator=rng, dtype=torch.float64)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean1, (0.5 * lv1).exp()), torch.distributions.Normal(mean2, (0.5 * lv2).exp())
    )
    torch.testing.assert_close(normal_kl(mean1 - mean2, lv1, lv2), expected, rtol=1e-12, atol=1e-12)


def test_the_tanh_cdf_is_within_2e_minus_4_of_the_normal_cdf_but_not_it() -> None:
    x = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    error = (normal_cdf(x) - torch.special.ndtr(x)).abs().max()
    assert 1e-5 < error < 2e-4


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.3), (-0.97, 0.05), (0.999, 0.2)])
def test_the_probabilities_of_the_256_bins_sum_to_1(mean: float, std: float) -> None:
    pixels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    nll = discretised_normal_nll(pixels, torch.tensor(mean), torch.tensor(math.log(std)))
    assert torch.exp(-nll).sum().item() == pytest.approx(1, abs=1e-6)


def test_the_edge_bins_reach_to_infinity_from_0_999_on() -> None:
    nll = discretised_normal_nll(torch.tensor([-5.0, 5.0, 0.998]), torch.tensor([-1e3, 1e3, 1e3]), torch.zeros(3))
    torch.testing.assert_close(nll, torch.tensor([0.0, 0.0, -math.log(1e-12)]))
