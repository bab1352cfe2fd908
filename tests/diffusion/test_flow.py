import pytest
import torch

from pixart.diffusion.flow import Flow


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0)).unbind()


def test_x_t_is_noise_at_1000_and_half_way_at_500() -> None:
    x0, noise = pair()
    x_t = Flow(shift=1.0, time_sampling="uniform").add_noise(x0, noise, torch.tensor([1000.0, 500.0, 250.0]))
    torch.testing.assert_close(x_t[0], noise[0])
    torch.testing.assert_close(x_t[1], (x0[1] + noise[1]) / 2)
    torch.testing.assert_close(x_t[2], 0.75 * x0[2] + 0.25 * noise[2])


def test_the_target_is_the_derivative_of_the_path() -> None:
    flow, (x0, noise) = Flow(shift=1.0, time_sampling="uniform"), pair()
    x0, noise, t = x0.double(), noise.double(), torch.tensor([100.0, 400.0, 900.0])
    ahead, behind = flow.add_noise(x0, noise, t + 8), flow.add_noise(x0, noise, t - 8)
    velocity = (ahead - behind) / 0.016
    got = flow.losses(velocity, x0=x0, noise=noise, x_t=flow.add_noise(x0, noise, t), t=t)
    assert got.mse.max() < 1e-8


def test_an_output_of_0_costs_the_mean_square_of_noise_minus_x0_and_the_bound_is_0() -> None:
    flow, (x0, noise) = Flow(shift=1.0, time_sampling="uniform"), pair()
    got = flow.losses(torch.zeros(3, 4, 2, 2).bfloat16(), x0=x0, noise=noise, x_t=x0, t=torch.ones(3))
    torch.testing.assert_close(got.loss, ((noise - x0) ** 2).flatten(1).mean(1))
    assert got.loss.dtype == torch.float32
    assert torch.equal(got.loss, got.mse)
    assert got.vlb.abs().max() == 0


@pytest.mark.parametrize("law", ["uniform", "logit_normal"])
@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_times_lie_above_0_and_up_to_1000_and_grow_with_u(law: str, shift: float) -> None:
    u = torch.cat([torch.arange(100, dtype=torch.float64) / 100, torch.tensor([1 - 2**-53, 1.0], dtype=torch.float64)])
    t = Flow(shift=shift, time_sampling=law).timesteps(u)
    assert t.dtype == torch.float32
    assert t.min() > 0
    assert t.max() <= 1000
    assert (t.diff() >= 0).all()


def test_a_shift_of_3_moves_the_middle_to_750() -> None:
    assert Flow(shift=3.0, time_sampling="uniform").timesteps(torch.tensor([0.5])).item() == pytest.approx(750)


def test_logit_normal_times_are_symmetric_about_500() -> None:
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    t = Flow(shift=1.0, time_sampling="logit_normal").timesteps(u)
    torch.testing.assert_close(t + t.flip(0), torch.full((1000,), 1000.0))
    assert t[250].item() == pytest.approx(337.8, abs=1)


def test_a_shift_of_0_and_8_channels_for_4_are_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"objective\.shift: 0 must be positive"):
        Flow(shift=0, time_sampling="uniform")
    x0, noise = pair()
    with pytest.raises(ValueError, match="gives 8 channels where flow matching needs 4"):
        Flow(shift=1.0, time_sampling="uniform").losses(
            torch.zeros(3, 8, 2, 2), x0=x0, noise=noise, x_t=x0, t=torch.ones(3)
        )
