"""Laws of the autoencoder and of the pixels that stand in its place."""

import logging
from pathlib import Path
from shutil import copytree

import pytest
import torch
from torch import Tensor

from pixart.encoders.autoencoder import Autoencoder, Pixels, load_autoencoder

SCALE, SHIFT = 0.25, 0.125


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small AutoencoderKL with random weights in the real format: 2 latent channels, stride 4."""
    logging.getLogger("xformers").setLevel(logging.ERROR)
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("vae")
    AutoencoderKL(
        block_out_channels=(4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=2,
        norm_num_groups=2,
        sample_size=16,
        scaling_factor=SCALE,
        shift_factor=SHIFT,
    ).save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def autoencoder(folder: Path) -> Autoencoder:
    loaded = load_autoencoder(str(folder), dtype=torch.float32)
    assert isinstance(loaded, Autoencoder)
    return loaded


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_channels_stride_scale_and_shift_come_from_the_config(autoencoder: Autoencoder) -> None:
    assert (autoencoder.channels, autoencoder.stride, autoencoder.stochastic) == (2, 4, True)
    assert (autoencoder.scale, autoencoder.shift) == (SCALE, SHIFT)


def test_moments_are_the_posteriors_mean_and_deviation_on_the_channel_axis(
    autoencoder: Autoencoder, images: Tensor
) -> None:
    moments = autoencoder.moments(images)
    assert moments.shape == (2, 4, 4, 6)
    with torch.no_grad():
        posterior = autoencoder.model.encode(images).latent_dist
    torch.testing.assert_close(moments, torch.cat([posterior.mean, posterior.std], dim=1), rtol=0, atol=0)


def test_a_draw_is_mean_plus_deviation_times_noise_then_shifted_and_scaled(
    autoencoder: Autoencoder, images: Tensor
) -> None:
    moments, noise = autoencoder.moments(images), torch.full((2, 2, 4, 6), 2.0)
    mean, std = moments.chunk(2, dim=1)
    torch.testing.assert_close(autoencoder.draw(moments, noise), (mean + 2 * std - SHIFT) * SCALE)
    torch.testing.assert_close(autoencoder.draw(moments, None), (mean - SHIFT) * SCALE)
    torch.testing.assert_close(autoencoder.encode(images, noise), autoencoder.draw(moments, noise))


def test_decoding_undoes_scale_and_shift_and_stays_within_one(autoencoder: Autoencoder, images: Tensor) -> None:
    latents = autoencoder.encode(images, None)
    with torch.no_grad():
        direct = autoencoder.model.decode(autoencoder.moments(images)[:, :2]).sample.clamp(-1, 1)
    decoded = autoencoder.decode(latents)
    assert decoded.shape == images.shape
    torch.testing.assert_close(decoded, direct)
    assert autoencoder.decode(latents * 1e4).abs().max() <= 1


def test_nothing_of_the_autoencoder_learns(autoencoder: Autoencoder, images: Tensor) -> None:
    assert not any(p.requires_grad for p in autoencoder.model.parameters())
    assert not autoencoder.model.training
    assert not autoencoder.encode(images.requires_grad_(), None).requires_grad


def test_sides_that_are_no_multiple_of_the_stride_are_refused(autoencoder: Autoencoder) -> None:
    with pytest.raises(ValueError, match="18 x 16 pixels: both sides must be multiples of 4"):
        autoencoder.moments(torch.zeros(1, 3, 18, 16))


def test_tiling_is_a_switch(folder: Path) -> None:
    tiled = load_autoencoder(str(folder), dtype=torch.float32, tiling=True)
    assert isinstance(tiled, Autoencoder)
    assert (tiled.model.use_tiling, tiled.model.use_slicing) == (True, True)
    tiled.use_tiling(False)
    assert (tiled.model.use_tiling, tiled.model.use_slicing) == (False, False)


def test_bfloat16_weights_give_float32_latents_near_those_of_float32(folder: Path, images: Tensor) -> None:
    half = load_autoencoder(str(folder), dtype=torch.bfloat16)
    full = load_autoencoder(str(folder), dtype=torch.float32)
    assert half.encode(images, None).dtype == torch.float32
    torch.testing.assert_close(half.encode(images, None), full.encode(images, None), rtol=0.1, atol=0.05)
    assert half.fingerprint != full.fingerprint


def test_a_pipelines_vae_subfolder_is_found_and_has_the_same_fingerprint(
    autoencoder: Autoencoder, folder: Path, tmp_path: Path
) -> None:
    copytree(folder, tmp_path / "vae")
    assert load_autoencoder(str(tmp_path), dtype=torch.float32).fingerprint == autoencoder.fingerprint


def test_a_truncated_file_and_another_models_config_are_one_sentence_each(folder: Path, tmp_path: Path) -> None:
    broken = Path(copytree(folder, tmp_path / "broken"))
    weights = broken / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"^autoencoder\.source: .*broken is not a readable AutoencoderKL \(.*again$"):
        load_autoencoder(str(broken), dtype=torch.float32)
    other = Path(copytree(folder, tmp_path / "other"))
    config = other / "config.json"
    config.write_text(config.read_text().replace('"layers_per_block": 1', '"layers_per_block": 2'))
    with pytest.raises(ValueError, match=r"^autoencoder\.source: the weights in .*other lack \d+ tensors"):
        load_autoencoder(str(other), dtype=torch.float32)


def test_pixels_come_back_bit_for_bit_at_scale_one(images: Tensor) -> None:
    pixels = load_autoencoder("pixels", dtype=torch.float32)
    assert (pixels.channels, pixels.stride, pixels.stochastic) == (3, 1, False)
    torch.testing.assert_close(pixels.decode(pixels.encode(images, None)), images, rtol=0, atol=0)
    assert pixels.to("cpu") is pixels


def test_pixel_latents_are_scaled_and_deaf_to_noise(images: Tensor) -> None:
    pixels = Pixels(scale=2.0)
    assert pixels.moments(images).shape == (2, 6, 16, 24)
    torch.testing.assert_close(pixels.encode(images, torch.ones_like(images)), 2 * images, rtol=0, atol=0)
    assert Pixels(scale=2.0).fingerprint == pixels.fingerprint != Pixels(scale=1.0).fingerprint
    with pytest.raises(ValueError, match=r"^autoencoder\.scale: 0 is not above 0"):
        Pixels(scale=0)
