"""Losses are float32 whatever the model gives and whatever surrounds them."""

import pytest
import torch

from pixart.diffusion.flow import Flow


@pytest.mark.parametrize("objective", ["gaussian", "flow"])
def test_losses_of_a_bfloat16_output_under_autocast_are_those_of_its_float32_copy_to_the_bit(make_gaussian, objective):
    chosen = make_gaussian() if objective == "gaussian" else Flow(shift=1.0, time_sampling="uniform")
    generator = torch.Generator().manual_seed(5)
    x0, noise = torch.randn(2, 8, 4, 6, 6, generator=generator)
    t = chosen.timesteps(torch.rand(8, generator=generator, dtype=torch.float64))
    output = torch.randn(8, chosen.out_channels(4), 6, 6, generator=generator).bfloat16()
    exact = chosen.losses(output.float(), x0=x0, noise=noise, x_t=chosen.add_noise(x0, noise, t), t=t)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x_t = chosen.add_noise(x0, noise, t)
        found = chosen.losses(output, x0=x0, noise=noise, x_t=x_t, t=t)
    assert x_t.dtype == torch.float32
    for a, b in zip(exact, found, strict=True):
        assert b.dtype == torch.float32
        assert torch.equal(a, b)
