"""What is prepared once for all steps gives what the model gives when it is told at each."""

import pytest
import torch

from pixart.batch import Conditioning
from pixart.diffusion.gaussian import Gaussian
from pixart.diffusion.sampler import make_scheduler, sample
from pixart.models.dit import PixArt
from pixart.sampling.denoising import InPrecision

TIMES = torch.tensor([999, 500, 3])
OBJECTIVE = Gaussian(
    num_timesteps=1000, schedule="linear", prediction="eps", learned_variance=True, weighting="none",
    weighting_gamma=5.0, time_sampling="uniform",
)  # fmt: skip


@pytest.mark.parametrize("adaln", ["single", "per_block"])
@pytest.mark.parametrize("size_conditioning", [False, True])
def test_prepared_text_and_times_give_the_plain_output_at_each_of_3_steps_to_1e_5(
    small, randomise, captioned, x_t, adaln, size_conditioning
):
    model = randomise(small(adaln=adaln, size_conditioning=size_conditioning))
    prepared = model.prepare(captioned, TIMES, (8, 8))
    for step, time in enumerate(TIMES):
        plain = model(x_t, time.expand(2), captioned)
        told = model(x_t, time.expand(2), prepared.at(step))
        torch.testing.assert_close(told, plain, rtol=1e-5, atol=1e-5)


def test_prepared_labels_give_the_plain_output_to_1e_5(small, randomise, x_t):
    model = randomise(small(text_dim=None, num_classes=3))
    for cond in (Conditioning(label=torch.tensor([0, 3])), Conditioning()):
        told = model(x_t, TIMES[:2], model.prepare(cond, TIMES, (8, 8)).at(1))
        torch.testing.assert_close(told, model(x_t, TIMES[1].expand(2), cond), rtol=1e-5, atol=1e-5)


def test_a_prepared_prompt_holds_2_numbers_a_block_token_and_channel(small, captioned):
    prepared = small().prepare(captioned, TIMES, (8, 8))
    held = {tensor.untyped_storage().data_ptr(): tensor for text in prepared.texts for tensor in text[:2]}
    assert sum(tensor.untyped_storage().nbytes() for tensor in held.values()) == 2 * 2 * 6 * 2 * 48 * 4  # 2 prompts


def test_in_4_steps_each_block_s_own_modulation_is_made_once(small, captioned):
    model: PixArt = small(adaln="per_block")
    calls = []
    for block in model.blocks:
        block.adaLN_modulation.register_forward_hook(lambda *told: calls.append(len(told[2])))
    drawn(InPrecision(model, torch.device("cpu"), "fp32"), captioned)
    assert len(calls) == len(model.blocks)
    assert min(calls) >= 4  # every time of the schedule


def drawn(denoiser, captioned: Conditioning, **changes) -> torch.Tensor:
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    null = captioned._replace(tokens=torch.zeros(2, 1, 20), mask=torch.ones(2, 1, dtype=torch.bool))
    asked = {"guidance_scale": 4.5, "num_inference_steps": 4, **changes}
    return sample(denoiser, make_scheduler(OBJECTIVE, "dpm_solver"), noise, captioned, null, **asked)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_picture_is_the_one_of_a_callable_that_is_told_at_each_step_to_1e_4(small, randomise, captioned, precision):
    model = randomise(small(), std=0.05)
    in_precision = InPrecision(model, torch.device("cpu"), precision)
    plain = drawn(lambda x_t, t, cond: in_precision(x_t, t, cond), captioned)
    torch.testing.assert_close(drawn(in_precision, captioned), plain, rtol=1e-4, atol=1e-4)


def test_in_4_steps_captions_are_projected_once(small, captioned):
    model: PixArt = small()
    calls = []
    for layer in (model.y_embedder.y_proj, *(block.cross_attn.kv_linear for block in model.blocks)):
        layer.register_forward_hook(lambda layer, *_: calls.append(layer))
    drawn(InPrecision(model, torch.device("cpu"), "fp32"), captioned)
    assert len(calls) == 3
