"""A folder that diffusers' own pipeline loads and runs, and that draws what we draw."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pixart.batch import Conditioning
from pixart.diffusion.gaussian import Gaussian
from pixart.diffusion.sampler import make_scheduler, sample
from pixart.encoders.text import load_text_encoder
from pixart.formats import load, read, released, write
from pixart.formats.scheduler_config import SCHEDULER
from pixart.formats.snapshot import write_snapshot
from pixart.formats.weights import objective_of
from pixart.models.dit import PixArt

PROMPTS = ["a red circle above a blue square", "two green triangles"]


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ``AutoencoderKL`` of stride 2 with random weights."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("autoencoder")
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    AutoencoderKL(**blocks, block_out_channels=[8, 8], norm_num_groups=4, latent_channels=4).save_pretrained(folder)
    return folder


def snapshot(path: Path, model: PixArt, **run: Any) -> Path:
    write_snapshot(
        path, model.state_dict(), model_config=model.config, run_config=run, stamps={}, step=1, samples_seen=1
    )
    return path


@pytest.fixture(scope="module")
def folder(trained, autoencoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of a small random model, the packaged T5 and that autoencoder."""
    place = tmp_path_factory.mktemp("pipeline")
    weights = read(snapshot(place / "a.safetensors", trained(text_dim=64, interpolation_scale=2.0)))
    rows = write(
        weights, place / "out", to="diffusers-pipeline", text_encoder="shapes-t5", autoencoder=str(autoencoder)
    )
    assert {row.tensor for row in rows} >= {"text_encoder", "tokenizer", "vae", "scheduler"}
    return place / "out"


@pytest.mark.parametrize("told_sizes", [False, True])
def test_diffusers_loads_and_runs_it_and_our_sampler_ends_on_the_same_latents_to_1e_4(
    folder, trained, autoencoder, tmp_path, told_sizes
):
    from diffusers import PixArtAlphaPipeline

    words: dict[str, Any] = {}
    if told_sizes:
        model = trained(text_dim=64, size_conditioning=True, input_size=128)
        weights = read(snapshot(tmp_path / "a.safetensors", model))
        write(
            weights, tmp_path / "out", to="diffusers-pipeline", text_encoder="shapes-t5", autoencoder=str(autoencoder)
        )
        folder, words = tmp_path / "out", {"size": torch.tensor([[16.0, 24.0]] * 2)}
        words["aspect_ratio"] = torch.tensor([[16 / 24]] * 2)
    pipeline = PixArtAlphaPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(1))
    asked = {"guidance_scale": 4.5, "num_inference_steps": 6}
    theirs = pipeline(
        PROMPTS, height=16, width=24, latents=noise.clone(), use_resolution_binning=False, clean_caption=False,
        output_type="latent", **asked,
    ).images  # fmt: skip
    encoder = load_text_encoder(str(folder), max_tokens=120, cleaning="none", dtype=torch.float32)
    tokens, mask = encoder(PROMPTS)
    null, null_mask = encoder([""] * 2)
    ours = sample(
        load(folder), make_scheduler(Gaussian(**released.OBJECTIVE), "dpm_solver"), noise,
        Conditioning(tokens=tokens, mask=mask, **words), Conditioning(tokens=null, mask=null_mask, **words), **asked,
    )  # fmt: skip
    assert theirs.shape == ours.shape == (2, 4, 8, 12)
    assert (ours - noise).abs().max() > 0.1
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def test_it_decodes_to_pictures(folder):
    from diffusers import PixArtAlphaPipeline

    pipeline = PixArtAlphaPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    (picture,) = pipeline(PROMPTS[0], num_inference_steps=2, use_resolution_binning=False, clean_caption=False).images
    assert picture.size == (16, 16)


def test_read_again_it_is_the_same_transformer_and_brings_its_encoders_along(folder, tmp_path):
    weights = read(folder)
    assert weights.pipeline == folder
    write(weights, tmp_path / "again", to="diffusers-pipeline", encoders="link")
    assert (tmp_path / "again" / "vae" / "config.json").is_symlink()
    for file in folder.rglob("*"):
        if file.is_file():
            assert (tmp_path / "again" / file.relative_to(folder)).read_bytes() == file.read_bytes()


def test_the_scheduler_is_the_solver_of_the_weights_objective(trained, autoencoder, tmp_path):
    from diffusers import DPMSolverMultistepScheduler

    objective = {"kind": "gaussian", **released.OBJECTIVE, "prediction": "velocity", "schedule": "cosine"}
    del objective["time_sampling"]  # as a version might have written it that did not know it yet
    objective["not_yet_known"] = 1
    path = snapshot(tmp_path / "a.safetensors", trained(text_dim=64), objective=objective,
                    text_encoder={"source": "shapes-t5"}, autoencoder={"source": str(autoencoder)})  # fmt: skip
    write(read(path), tmp_path / "out", to="diffusers-pipeline")
    config = DPMSolverMultistepScheduler.from_pretrained(tmp_path / "out", subfolder="scheduler").config
    assert (config.prediction_type, config.beta_schedule) == ("v_prediction", "squaredcos_cap_v2")
    again = read(tmp_path / "out")
    assert again.told == {"objective": {key: objective[key] for key in again.told["objective"]}}
    with pytest.raises(ValueError, match="cannot hold the objective velocity, 1000 cosine steps"):
        write(again, tmp_path / "a.pth", to="pixart")
    write(again, tmp_path / "b.safetensors", to="snapshot")
    assert objective_of(read(tmp_path / "b.safetensors"))["prediction"] == "velocity"
    write(read(tmp_path / "b.safetensors"), tmp_path / "c", to="diffusers-pipeline", text_encoder="shapes-t5",
          autoencoder=str(autoencoder))  # fmt: skip
    assert (tmp_path / "c" / SCHEDULER).read_text() == (tmp_path / "out" / SCHEDULER).read_text()


def test_the_text_encoder_in_the_folder_gives_the_null_caption_of_a_pth(folder, tmp_path):
    write(read(folder), tmp_path / "a.pth", to="pixart")
    assert read(tmp_path / "a.pth", num_heads=4).null_caption.shape == (120, 64)
    alone = read(folder / "transformer")
    with pytest.raises(ValueError, match=r"give text_encoder= .*, or null_caption= \(tools/convert.py\)"):
        write(alone, tmp_path / "b.pth", to="pixart")


@pytest.mark.parametrize(
    ("model", "given", "sentence"),
    [
        ({"text_dim": 64}, {"text_encoder": "shapes-t5"}, "needs autoencoder="),
        ({"text_dim": 64}, {"autoencoder": "vae"}, "needs text_encoder="),
        ({"text_dim": 20}, {"text_encoder": "shapes-t5", "autoencoder": "vae"}, "d_model 64 and the transformer takes"),
        ({"text_dim": 64, "in_channels": 3, "out_channels": 6}, {"text_encoder": "shapes-t5", "autoencoder": "vae"},
         "latent_channels 4 and the transformer takes 3"),
        ({"text_dim": 64}, {"text_encoder": "shapes-t5", "autoencoder": "pixels"}, "needs an AutoencoderKL"),
        ({"text_dim": 64, "size_conditioning": True}, {"text_encoder": "shapes-t5", "autoencoder": "vae"},
         "input size 128 only, not 8"),
        ({"text_dim": 64}, {"text_encoder": "no/where/at all", "autoencoder": "vae"}, "no folder 'no/where/at all'"),
    ],
)  # fmt: skip
def test_a_part_that_is_missing_or_does_not_fit_is_named_and_nothing_is_left(
    trained, autoencoder, tmp_path, model, given, sentence
):
    weights = read(snapshot(tmp_path / "a.safetensors", trained(**model)))
    given = {name: str(autoencoder) if source == "vae" else source for name, source in given.items()}
    with pytest.raises(ValueError, match=sentence):
        write(weights, tmp_path / "out", to="diffusers-pipeline", **given)
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
