import pytest
import torch

from pixart.diffusion.weighting import loss_weights

SNR = torch.tensor([1e-4, 0.5, 4.9, 5.1, 1e4], dtype=torch.float64)


def weights(weighting: str, prediction: str, gamma: float = 5.0) -> torch.Tensor:
    return loss_weights(SNR, weighting=weighting, gamma=gamma, prediction=prediction)


def test_min_snr_is_as_published_for_each_of_the_3_predictions() -> None:
    smaller = torch.minimum(SNR, torch.tensor(5.0))
    torch.testing.assert_close(weights("min_snr", "x0"), smaller)
    torch.testing.assert_close(weights("min_snr", "eps"), smaller / SNR)
    torch.testing.assert_close(weights("min_snr", "velocity"), smaller / (SNR + 1))


def test_soft_min_snr_lies_below_min_snr_and_above_half_of_it() -> None:
    hard, soft = weights("min_snr", "x0"), weights("soft_min_snr", "x0")
    assert ((soft < hard) & (soft >= hard / 2)).all()


def test_truncated_snr_of_gamma_1_is_at_least_1_on_x0() -> None:
    assert weights("truncated_snr", "x0", 1.0).tolist() == [1, 1, *SNR[2:].tolist()]


def test_p2_divides_the_simple_noise_loss_by_1_plus_snr_to_gamma() -> None:
    torch.testing.assert_close(weights("p2", "eps", 0.5), (1 + SNR) ** -0.5)


@pytest.mark.parametrize("prediction", ["eps", "velocity", "x0"])
def test_no_weighting_is_1_for_every_prediction(prediction: str) -> None:
    assert weights("none", prediction).tolist() == [1.0] * 5


@pytest.mark.parametrize("weighting", ["min_snr", "soft_min_snr", "truncated_snr", "p2"])
def test_one_weighting_costs_the_same_error_the_same_whichever_of_3_is_predicted(weighting: str) -> None:
    signal, noise_rate = (SNR / (SNR + 1)).sqrt(), (1 / (SNR + 1)).sqrt()
    clean_error = torch.full_like(SNR, 0.3)  # of the x0 prediction at fixed x_t, which moves the others with it
    eps_error = clean_error * signal / noise_rate
    velocity_error = signal * eps_error + noise_rate * clean_error
    errors = {"x0": clean_error, "eps": eps_error, "velocity": velocity_error}
    first, *others = (weights(weighting, name) * error**2 for name, error in errors.items())
    for other in others:
        torch.testing.assert_close(other, first)


def test_an_unknown_weighting_and_a_gamma_of_0_are_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"objective\.weighting: 'max_snr' is not one of none, min_snr"):
        weights("max_snr", "eps")
    with pytest.raises(ValueError, match=r"objective\.weighting_gamma: 0 must be positive"):
        weights("min_snr", "eps", 0)
