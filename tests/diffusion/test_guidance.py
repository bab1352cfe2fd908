from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pixart.batch import Conditioning, Denoiser
from pixart.diffusion.gaussian import Gaussian
from pixart.diffusion.guidance import GuidanceChannels, Guide, check_channels, joined
from pixart.diffusion.sampler import make_scheduler, sample

X, T = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([7, 8, 9])
COND = Conditioning(tokens=torch.ones(3, 5, 6), mask=torch.ones(3, 5, dtype=torch.bool), label=torch.tensor([0, 1, 2]))
NULL = Conditioning(tokens=torch.zeros(3, 1, 6), mask=torch.ones(3, 1, dtype=torch.bool), label=torch.full((3,), 10))

OBJECTIVE = Gaussian(
    num_timesteps=1000, schedule="linear", prediction="eps", learned_variance=True, weighting="none",
    weighting_gamma=5.0, time_sampling="uniform",
)  # fmt: skip


def guided(
    denoiser: Denoiser, *, guidance_scale: float, channels: GuidanceChannels, with_variance: bool = False
) -> Callable[[Tensor, Tensor, Conditioning, Conditioning | None], Tensor]:
    """One step as the sampler makes it."""
    check_channels(channels)

    def predict(x_t: Tensor, t: Tensor, cond: Conditioning, null: Conditioning | None) -> Tensor:
        rows = cond if guidance_scale == 1 else joined(cond, null, guidance_scale=guidance_scale)
        guide = Guide(channels=channels, with_variance=with_variance)
        return guide(lambda x: denoiser(x, t.repeat(len(x) // len(t)), rows), x_t, guidance_scale=guidance_scale)

    return predict


class Recorder:
    """A denoiser that knows its label, gives a variance half, and remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor, Conditioning]] = []

    def __call__(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        self.calls.append((x_t, t, cond))
        assert cond.label is not None
        eps = x_t.sin() * (1 + cond.label).view(-1, 1, 1, 1)
        return torch.cat([eps, torch.full_like(eps, 99.0)], dim=1)


def test_a_scale_of_1_runs_the_model_once_on_n_rows_and_needs_no_null() -> None:
    model = Recorder()
    out = guided(model, guidance_scale=1.0, channels="all")(X, T, COND, None)
    assert [len(x) for x, _, _ in model.calls] == [3]
    assert torch.equal(out, X.sin() * torch.tensor([1, 2, 3]).view(-1, 1, 1, 1))


def test_another_scale_runs_one_batch_of_2n_rows_cond_before_null() -> None:
    model = Recorder()
    guided(model, guidance_scale=4.5, channels="all")(X, T, COND, NULL)
    ((x, t, cond),) = model.calls
    assert torch.equal(x, torch.cat([X, X]))
    assert t.tolist() == [7, 8, 9, 7, 8, 9]
    assert cond.label is not None
    assert cond.label.tolist() == [0, 1, 2, 10, 10, 10]
    assert cond.mask is not None
    assert cond.mask.sum(1).tolist() == [5, 5, 5, 1, 1, 1]


@pytest.mark.parametrize("scale", [0.0, 2.0, 4.5])
def test_guidance_is_null_plus_scale_times_the_difference_to_the_bit_on_all_4_channels(scale: float) -> None:
    given, nothing = X.sin() * torch.tensor([1, 2, 3]).view(-1, 1, 1, 1), X.sin() * 11
    out = guided(Recorder(), guidance_scale=scale, channels="all")(X, T, COND, NULL)
    assert torch.equal(out, nothing + scale * (given - nothing))


def test_three_channel_guidance_leaves_the_4th_to_the_conditioning() -> None:
    given, nothing = X.sin() * torch.tensor([1, 2, 3]).view(-1, 1, 1, 1), X.sin() * 11
    out = guided(Recorder(), guidance_scale=4.5, channels="three")(X, T, COND, NULL)
    assert torch.equal(out[:, :3], (nothing + 4.5 * (given - nothing))[:, :3])
    assert torch.equal(out[:, 3], given[:, 3])


def test_the_official_guidance_is_3_channels_of_noise_and_conds_own_5_others() -> None:
    """As the official sampler has it: eps = output[:, :3], rest = output[:, 3:], and the first half goes on."""

    class Varied(Recorder):
        def __call__(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
            eps = super().__call__(x_t, t, cond)[:, :4]
            return torch.cat([eps, 2 * eps], dim=1)

    given = torch.cat([X.sin(), 2 * X.sin()], dim=1) * torch.tensor([1, 2, 3]).view(-1, 1, 1, 1)
    nothing = torch.cat([X.sin(), 2 * X.sin()], dim=1) * 11
    out = guided(Varied(), guidance_scale=4.5, channels="three", with_variance=True)(X, T, COND, NULL)
    assert out.shape == (3, 8, 2, 2)
    assert torch.equal(out[:, :3], (nothing + 4.5 * (given - nothing))[:, :3])
    assert torch.equal(out[:, 3:], given[:, 3:])
    every = guided(Varied(), guidance_scale=4.5, channels="all", with_variance=True)(X, T, COND, NULL)
    assert torch.equal(every[:, :4], (nothing + 4.5 * (given - nothing))[:, :4])
    assert torch.equal(every[:, 4:], given[:, 4:])


def test_guidance_without_null_and_2_channel_guidance_are_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"guidance_scale=4\.5 needs a null conditioning"):
        guided(Recorder(), guidance_scale=4.5, channels="all")(X, T, COND, None)
    with pytest.raises(ValueError, match="guidance_channels: 'two' is not one of all, three"):
        guided(Recorder(), guidance_scale=4.5, channels="two")


def drawn(interval: tuple[float, float] | None = None, *, every: int = 1, steps: int = 4) -> tuple[Tensor, list[int]]:
    model = Recorder()
    latents = sample(
        model, make_scheduler(OBJECTIVE, "dpm_solver"), X, COND, NULL,
        guidance_scale=3.0, num_inference_steps=steps, guidance_interval=interval, guidance_every=every,
    )  # fmt: skip
    return latents, [len(x) for x, _, _ in model.calls]


def test_outside_the_interval_of_guidance_the_n_rows_of_cond_are_computed_alone() -> None:
    always, rows = drawn(None)
    assert rows == [6, 6, 6, 6]
    whole, rows = drawn((0.0, 1.0))
    assert rows == [6, 6, 6, 6]
    assert torch.equal(whole, always)
    middle, rows = drawn((0.3, 0.8))  # times are 999, 749, 500 and 250 of 1000
    assert rows == [3, 6, 6, 3]
    assert not torch.equal(middle, always)


@pytest.mark.parametrize("interval", [(0.5, 0.5), (0.8, 0.2), (-0.1, 1.0), (0.0, 1.5)])
def test_an_interval_that_is_none_is_refused_with_its_2_ends(interval: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"guidance_interval: .* must be two rising shares of time"):
        drawn(interval)


def test_a_step_that_does_not_ask_null_takes_the_last_difference_over() -> None:
    guide = Guide(channels="all", with_variance=False)
    given, nothing, later = X.sin(), X.cos(), X.tanh()
    guide(lambda _: torch.cat([given, nothing]), X, guidance_scale=4.5)
    out = guide(lambda _: later, X, guidance_scale=4.5, afresh=False)
    torch.testing.assert_close(out, later + 3.5 * (given - nothing))


def test_null_is_asked_at_one_guided_step_of_every_and_first_after_an_interval() -> None:
    assert drawn(every=2, steps=5)[1] == [6, 3, 6, 3, 6]
    assert drawn(every=3, steps=5)[1] == [6, 3, 3, 6, 3]
    assert drawn((0.3, 0.8), every=2)[1] == [3, 6, 3, 3]
    assert not torch.equal(drawn(every=2)[0], drawn()[0])


def test_an_every_of_0_is_refused() -> None:
    with pytest.raises(ValueError, match="guidance_every: 0 must be at least 1"):
        drawn(every=0)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_autoguidance_leads_on_from_guidance_away_from_a_worse_model_on_the_guided_channels(scale: float) -> None:
    given, nothing, worse = X.sin(), X.cos(), X.tanh()

    def predicted(channels: GuidanceChannels) -> Tensor:
        return Guide(channels=channels, with_variance=False)(
            lambda x: given if len(x) == len(X) else torch.cat([given, nothing]), X,
            guidance_scale=scale, worse=lambda _: worse, autoguidance_scale=2.5,
        )  # fmt: skip

    wanted = nothing + scale * (given - nothing) + 1.5 * (given - worse)
    torch.testing.assert_close(predicted("all"), wanted)
    torch.testing.assert_close(predicted("three"), torch.cat([wanted[:, :3], given[:, 3:]], dim=1))


def test_the_worse_model_is_asked_for_cond_alone_at_every_step_and_not_at_all_for_a_scale_of_1() -> None:
    better, worse = Recorder(), Recorder()
    how = {"guidance_scale": 3.0, "num_inference_steps": 4, "guidance_interval": (0.3, 0.8)}
    for scale in (1.0, 2.0):
        scheduler = make_scheduler(OBJECTIVE, "dpm_solver")
        sample(better, scheduler, X, COND, NULL, worse=worse, autoguidance_scale=scale, **how)
    assert [len(x) for x, _, _ in better.calls] == [3, 6, 6, 3] * 2
    assert [len(x) for x, _, _ in worse.calls] == [3] * 4
    assert all(cond is COND for _, _, cond in worse.calls)


def test_autoguidance_without_a_worse_model_and_of_distilled_weights_is_refused() -> None:
    generators = [torch.Generator().manual_seed(row) for row in range(3)]
    how = {"guidance_scale": 1.0, "num_inference_steps": 4, "autoguidance_scale": 2.0, "generators": generators}
    with pytest.raises(ValueError, match="autoguidance_scale=2 needs a worse model"):
        sample(Recorder(), make_scheduler(OBJECTIVE, "dpm_solver"), X, COND, NULL, **how)
    with pytest.raises(ValueError, match="autoguidance_scale: 2 must be 1 for this scheduler"):
        sample(Recorder(), make_scheduler(OBJECTIVE, "lcm"), X, COND, NULL, worse=Recorder(), **how)
