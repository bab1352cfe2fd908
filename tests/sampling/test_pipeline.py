"""The pipeline around a model whose clean prediction is written down, so that its pictures are known beforehand."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pixart.batch import Conditioning
from pixart.diffusion.gaussian import Gaussian
from pixart.sampling.pipeline import Pipeline

OBJECTIVE = Gaussian(
    num_timesteps=1000,
    schedule="linear",
    prediction="x0",
    learned_variance=False,
    weighting="none",
    weighting_gamma=5.0,
    time_sampling="uniform",
)
ASKED: dict[str, Any] = {
    "guidance_scale": 1.0,
    "num_inference_steps": 3,
    "guidance_channels": "all",
    "scheduler_name": "dpm_solver",
    "batch_size": 4,
}


class Pixels:
    channels, stride, stochastic, fingerprint = 3, 1, False, "pixels"

    def decode(self, latents: Tensor) -> Tensor:
        return latents.clamp(-1, 1)


class Letters:
    """States that hold the length of the caption in tenths, one token more than letters."""

    dim, max_tokens, fingerprint = 2, 120, "letters"

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        self.calls.append(list(captions))
        mask = torch.zeros(len(captions), 1 + max(map(len, captions)), dtype=torch.bool)
        for row, caption in enumerate(captions):
            mask[row, : 1 + len(caption)] = True
        value = torch.tensor([len(caption) / 10 for caption in captions]).view(-1, 1, 1)
        return value.expand(*mask.shape, 2) * mask[..., None] + 99 * ~mask[..., None], mask


class Painter(nn.Module):
    """Predicts ``paint(x_t, cond)`` as the clean picture and remembers what it was told."""

    def __init__(self, paint: Callable[[Tensor, Conditioning], Tensor], **config: Any) -> None:
        super().__init__()
        defaults = {"input_size": 8, "patch_size": 2, "size_conditioning": False, "num_classes": None, "text_dim": None}
        self.config = {**defaults, **config}
        self.paint = paint
        self.linear = nn.Linear(2, 2)
        self.told: list[Conditioning] = []
        self.dtypes: list[torch.dtype] = []
        self.modes: list[bool] = []

    def forward(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        assert len(x_t) == len(t)
        self.told.append(cond)
        self.modes.append(self.training)
        self.dtypes.append(self.linear(torch.ones(1, 2)).dtype)
        return self.paint(x_t, cond).expand_as(x_t)


def by_label(x_t: Tensor, cond: Conditioning) -> Tensor:  # noqa: ARG001
    assert cond.label is not None
    return torch.where(cond.label < 10, 0.1 * cond.label, 0.0).view(-1, 1, 1, 1)


def by_text(x_t: Tensor, cond: Conditioning) -> Tensor:  # noqa: ARG001
    assert cond.tokens is not None
    assert cond.mask is not None
    real = cond.tokens[..., 0].masked_fill(~cond.mask, 0).sum(1) / cond.mask.sum(1)
    return real.view(-1, 1, 1, 1)


def by_noise(x_t: Tensor, cond: Conditioning) -> Tensor:  # noqa: ARG001
    return x_t.tanh()


def pipeline(model: Painter, encoder: Letters | None = None, **changed: Any) -> Pipeline:
    return Pipeline(model, OBJECTIVE, encoder, Pixels(), **{"device": "cpu", "precision": "fp32", **changed})


def grey(value: float) -> int:
    return round((value + 1) * 127.5)


def values(pictures: list[np.ndarray]) -> list[int]:
    assert all(picture.min() == picture.max() for picture in pictures)
    return [int(picture[0, 0, 0]) for picture in pictures]


def test_7_pictures_of_3_sizes_come_back_in_the_order_they_were_asked_for() -> None:
    labels = [3, 1, 4, 1, 5, 9, 2]
    sizes = [(8, 8), (4, 8), (8, 8), (6, 2), (8, 8), (4, 8), (8, 8)]
    model = Painter(by_label, num_classes=10)
    pictures = pipeline(model)(labels=labels, seeds=range(7), sizes=sizes, **{**ASKED, "batch_size": 3})
    assert [picture.shape for picture in pictures] == [(h, w, 3) for h, w in sizes]
    assert {picture.dtype for picture in pictures} == {np.dtype(np.uint8)}
    assert values(pictures) == [grey(label / 10) for label in labels]
    assert len(model.told) == 3 * 4  # steps times batches: 3 + 1 of the first size, 2, 1


def test_guidance_of_2_doubles_what_lies_between_the_class_and_the_null_row_10() -> None:
    model = Painter(by_label, num_classes=10)
    asked = {**ASKED, "guidance_scale": 2.0}
    pictures = pipeline(model)(labels=[2, 3], seeds=[0, 1], sizes=[(8, 8)] * 2, **asked)
    assert values(pictures) == [grey(0.4), grey(0.6)]
    label = model.told[0].label
    assert label is not None
    assert label.tolist() == [2, 3, 10, 10]


def test_the_null_caption_is_the_empty_one_asked_for_once_in_2_calls() -> None:
    encoder = Letters()
    draw = pipeline(Painter(by_text, text_dim=2), encoder)
    for _ in range(2):
        pictures = draw(prompts=["ab", "abcd"], seeds=[0, 1], sizes=[(8, 8)] * 2, **{**ASKED, "guidance_scale": 2.0})
        assert values(pictures) == [grey(0.4), grey(0.8)]  # the empty caption's states are 0
    assert encoder.calls == [["ab", "abcd"], [""], ["ab", "abcd"]]


def test_a_given_null_caption_of_5_tokens_is_taken_instead() -> None:
    encoder, model = Letters(), Painter(by_text, text_dim=2)
    draw = pipeline(model, encoder, null_caption=torch.full((5, 2), -0.1))
    pictures = draw(prompts=["abc"], seeds=[0], sizes=[(8, 8)], **{**ASKED, "guidance_scale": 2.0})
    assert values(pictures) == [grey(0.7)]  # -0.1 + 2 * (0.3 - -0.1)
    assert encoder.calls == [["abc"]]
    mask = model.told[0].mask
    assert mask is not None
    assert mask.sum(1).tolist() == [4, 5]


def test_the_official_null_caption_has_its_own_rows_and_the_mask_of_the_prompt_beside_it() -> None:
    encoder, model = Letters(), Painter(by_text, text_dim=2)
    rows = torch.arange(10.0).view(-1, 1).expand(10, 2) / -100  # row i is -i / 100
    draw = pipeline(model, encoder, null_caption=rows, null_mask="prompt")
    asked = {**ASKED, "guidance_scale": 2.0}
    pictures = draw(prompts=["abc", "abcdef"], seeds=[0, 1], sizes=[(8, 8)] * 2, **asked)
    # "abc" has 4 tokens: null is the mean of rows 0 to 3, "abcdef" has 7: that of rows 0 to 6.
    assert values(pictures) == [grey(2 * 0.3 + 0.015), 255]
    mask = model.told[0].mask
    assert mask is not None
    assert mask.sum(1).tolist() == [4, 7, 4, 7]
    assert torch.equal(mask[:2], mask[2:])


def test_a_null_caption_of_3_rows_cannot_have_the_mask_of_4_tokens_and_a_mask_called_all_is_refused() -> None:
    draw = pipeline(Painter(by_text, text_dim=2), Letters(), null_caption=torch.zeros(3, 2), null_mask="prompt")
    with pytest.raises(ValueError, match="null_mask: 'prompt' needs a null caption as long as the prompts, 4 tokens"):
        draw(prompts=["abc"], seeds=[0], sizes=[(8, 8)], **{**ASKED, "guidance_scale": 2.0})
    with pytest.raises(ValueError, match="null_mask: 'all' is not one of own, prompt"):
        pipeline(Painter(by_text, text_dim=2), Letters(), null_mask="all")
    with pytest.raises(ValueError, match="told_aspect_ratio: 'key' is not one of exact, bucket"):
        pipeline(Painter(by_text, text_dim=2), Letters(), told_aspect_ratio="key")


def test_a_picture_of_200_by_300_is_drawn_at_the_official_208_by_304_and_cropped_back() -> None:
    model = Painter(by_label, num_classes=10, input_size=256, size_conditioning=True)
    shapes: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    asked = {**ASKED, "binning": "official"}
    pictures = pipeline(model, told_aspect_ratio="bucket")(labels=[3, 2], seeds=[0, 1], sizes=[(200, 300)] * 2, **asked)
    assert set(shapes) == {(2, 3, 208, 304)}
    assert [picture.shape for picture in pictures] == [(200, 300, 3)] * 2
    assert values(pictures) == [grey(0.3), grey(0.2)]
    size, ratio = model.told[0].size, model.told[0].aspect_ratio
    assert size is not None
    assert ratio is not None
    assert size.tolist() == [[208, 304]] * 2
    torch.testing.assert_close(ratio, torch.tensor([[0.68]] * 2))  # 208 / 304 is 0.6842


def test_2_sizes_of_one_bin_are_drawn_together_and_cropped_apart_and_their_sides_need_be_no_whole_patches() -> None:
    model = Painter(by_label, num_classes=10, input_size=256)
    asked = {**ASKED, "binning": "official", "num_inference_steps": 1}
    pictures = pipeline(model)(labels=[3, 4], seeds=[0, 1], sizes=[(101, 99), (255, 257)], **asked)
    assert [picture.shape for picture in pictures] == [(101, 99, 3), (255, 257, 3)]
    assert len(model.told) == 1
    with pytest.raises(ValueError, match="size 101 x 99: both sides must be multiples of 2 pixels"):
        pipeline(model)(labels=[3], seeds=[0], sizes=[(101, 99)], **ASKED)


def test_iddpm_and_the_official_solver_draw_through_the_pipeline_with_a_variance_half() -> None:
    learned = Gaussian(
        num_timesteps=1000, schedule="linear", prediction="x0", learned_variance=True,
        weighting="none", weighting_gamma=5.0, time_sampling="uniform",
    )  # fmt: skip

    class Varied(Painter):
        def forward(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
            clean = super().forward(x_t, t, cond)
            return torch.cat([clean, torch.zeros_like(clean)], dim=1)

    for name in ("iddpm", "dpm_solver_official", "sa_solver"):
        draw = Pipeline(Varied(by_label, num_classes=10), learned, None, Pixels(), device="cpu", precision="fp32")
        asked = {**ASKED, "scheduler_name": name, "num_inference_steps": 20, "guidance_channels": "three"}
        picture = draw(labels=[2], seeds=[0], sizes=[(8, 8)], **{**asked, "guidance_scale": 2.0})[0]
        assert abs(int(picture.mean()) - grey(0.4)) <= 2


@pytest.mark.parametrize("scheduler", ["dpm_solver", "ddpm"])
def test_a_picture_depends_on_its_seed_and_on_0_of_its_neighbours(scheduler: str) -> None:
    draw, asked = pipeline(Painter(by_noise, num_classes=10)), {**ASKED, "scheduler_name": scheduler}
    together = draw(labels=[0] * 5, seeds=[7, 8, 9, 7, 11], sizes=[(8, 8)] * 5, **asked)
    alone = draw(labels=[0], seeds=[9], sizes=[(8, 8)], **asked)
    assert np.array_equal(alone[0], together[2])
    assert np.array_equal(together[0], together[3])
    assert not np.array_equal(together[0], together[1])


def test_drawing_leaves_torchs_own_random_numbers_where_they_were() -> None:
    draw, before = pipeline(Painter(by_noise, num_classes=10)), torch.get_rng_state()
    asked = {**ASKED, "scheduler_name": "ddpm"}
    draw(labels=[0], seeds=[9], sizes=[(8, 8)], **asked)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_size_conditioned_model_is_told_4_by_8_pixels_and_the_ratio_one_half_in_both_halves() -> None:
    model = Painter(by_label, num_classes=10, size_conditioning=True)
    pipeline(model)(labels=[1], seeds=[0], sizes=[(4, 8)], **{**ASKED, "guidance_scale": 2.0})
    size, ratio = model.told[0].size, model.told[0].aspect_ratio
    assert size is not None
    assert ratio is not None
    assert size.tolist() == [[4, 8], [4, 8]]
    assert ratio.tolist() == [[0.5], [0.5]]
    plain = Painter(by_label, num_classes=10)
    pipeline(plain)(labels=[1], seeds=[0], sizes=[(4, 8)], **ASKED)
    assert plain.told[0].size is None


def test_the_model_draws_in_evaluation_mode_and_goes_back_to_training_also_after_an_error() -> None:
    model = Painter(by_label, num_classes=10)
    draw = pipeline(model)
    draw(labels=[1], seeds=[0], sizes=[(8, 8)], **ASKED)
    assert model.modes == [False] * 3
    assert model.training
    with pytest.raises(ValueError, match="scheduler: 'euler'"):
        draw(labels=[1], seeds=[0], sizes=[(8, 8)], **{**ASKED, "scheduler_name": "euler"})
    assert model.training


def test_bf16_reaches_the_models_products_and_fp32_does_not() -> None:
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        model = Painter(by_label, num_classes=10)
        pictures = pipeline(model, precision=precision)(labels=[5], seeds=[0], sizes=[(8, 8)], **ASKED)
        assert set(model.dtypes) == {dtype}
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}  # a run that trains draws too
        assert values(pictures) == [grey(0.5)]


def test_progress_counts_3_steps_of_2_batches_to_6() -> None:
    ticks: list[tuple[int, int]] = []
    pipeline(Painter(by_label, num_classes=10))(
        labels=[1, 2], seeds=[0, 1], sizes=[(8, 8), (4, 4)], progress=lambda *tick: ticks.append(tick), **ASKED
    )
    assert ticks == [(done, 6) for done in range(1, 7)]


def test_9_pixels_label_10_no_prompts_and_batches_of_0_are_refused_before_anything_is_drawn() -> None:
    model = Painter(by_label, num_classes=10)
    draw, text = pipeline(model), pipeline(Painter(by_text, text_dim=2), Letters())
    with pytest.raises(ValueError, match="size 8 x 9: both sides must be multiples of 2 pixels"):
        draw(labels=[1, 1], seeds=[0, 1], sizes=[(8, 8), (8, 9)], **ASKED)
    with pytest.raises(ValueError, match="labels: 10 is not a class"):
        draw(labels=[1, 10], seeds=[0, 1], sizes=[(8, 8)] * 2, **ASKED)
    with pytest.raises(ValueError, match="prompts: there are none to draw"):
        text(prompts=[], seeds=[], sizes=[], **ASKED)
    with pytest.raises(ValueError, match="batch_size: 0 must be at least 1"):
        draw(labels=[1], seeds=[0], sizes=[(8, 8)], **{**ASKED, "batch_size": 0})
    assert not model.told


def test_3_pictures_decoded_together_are_those_decoded_alone() -> None:
    asked = {"labels": [1, 2, 3], "seeds": [0, 1, 2], "sizes": [(8, 8), (8, 8), (8, 8)], **ASKED}
    alone, together = (
        pipeline(Painter(by_noise, num_classes=10))(**asked, decode_batch=decode_batch) for decode_batch in (1, 3)
    )
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_pictures_that_are_no_numbers_are_refused_with_the_seed_of_the_first_or_counted_in_the_log(caplog) -> None:
    draw = pipeline(Painter(lambda x_t, cond: by_label(x_t, cond) / (cond.label.view(-1, 1, 1, 1) - 2), num_classes=10))
    asked = {"labels": [1, 2, 2], "seeds": [7, 8, 9], "sizes": [(8, 8)] * 3, **ASKED}
    with pytest.raises(
        ValueError, match=r"^2 picture\(s\) came out as no numbers .* seed 8: lower guidance_scale=1 or,"
    ):
        draw(**asked)
    assert not caplog.records
    pictures = draw(**asked, refuse_nonfinite=False)
    assert values(pictures[:1]) == values(draw(labels=[1], seeds=[7], sizes=[(8, 8)], **ASKED))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "2 picture(s) came out as no numbers" in caplog.text
