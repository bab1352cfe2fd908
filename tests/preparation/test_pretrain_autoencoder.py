"""Pre-training of the autoencoder: it learns, the same each time, and its latents come out at unit variance."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pixart.encoders.autoencoder import load_autoencoder
from pixart.preparation.pretrain_autoencoder import (
    Size,
    Training,
    kl_weight,
    make_autoencoder,
    pictures,
    pretrain,
    quality,
    save,
    set_scale,
)

SIZE = Size(channels=(8, 8, 16), latent_channels=4, norm_groups=4)
HOW = Training(
    seed=0,
    steps=32,
    batch_size=8,
    pictures=(("captioned", 16, 16), ("aesthetic", 16, 24)),
    kl_start=1e-5,
    kl_weight=1e-3,
    kl_ramp=(0.25, 0.75),
    lr=0.005,
    matrix_lr=0.02,
    warmup_steps=2,
    clip=1.0,
)


def trained() -> tuple[Any, list[float]]:
    errors: list[float] = []
    model = make_autoencoder(SIZE, seed=0)
    pretrain(model, HOW, progress=lambda _, error, __: errors.append(error))
    return model, errors


@pytest.fixture(scope="module")
def model() -> Any:
    made, errors = trained()
    assert sum(errors[-4:]) < 0.8 * sum(errors[:4])
    return made


def test_32_steps_give_the_same_weights_twice(model: Any) -> None:
    again, _ = trained()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_latents_of_a_saved_one_have_mean_0_and_deviation_1_by_its_own_config(model: Any, tmp_path: Path) -> None:
    set_scale(model, HOW, 32)
    save(model, tmp_path / "kl")
    loaded = load_autoencoder(str(tmp_path / "kl"), dtype=torch.float32)
    assert (loaded.channels, loaded.stride, loaded.stochastic) == (4, 4, True)
    images = [pictures(*kind, range(32), split="train", seed=0)[0] for kind in HOW.pictures]
    latents = torch.cat([loaded.encode(image, None).flatten() for image in images])
    assert latents.mean().abs() < 1e-3
    assert abs(latents.std() - 1) < 1e-3


def test_an_untrained_one_gives_back_less_than_a_trained_one(model: Any) -> None:
    kind = ("captioned", 16, 16)
    fresh = quality(make_autoencoder(SIZE, seed=0).eval(), kind, 16, 0)
    assert quality(model, kind, 16, 0).psnr > fresh.psnr + 0.5


def test_held_out_scenes_are_others_than_those_trained_on() -> None:
    seen, held = (pictures("captioned", 16, 16, range(4), split=split, seed=0)[0] for split in ("train", "validation"))
    assert not any(torch.equal(a, b) for a in seen for b in held)


def test_the_weight_of_the_divergence_rises_by_equal_factors_within_its_ramp_and_nowhere_else() -> None:
    weights = [kl_weight(HOW, step) for step in (0, 8, 16, 24, 31)]
    assert weights == pytest.approx([1e-5, 1e-5, 1e-4, 1e-3, 1e-3])
