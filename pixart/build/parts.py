"""The parts of a run, each from its section of the configuration."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pixart.config import Config
from pixart.data.buckets import buckets_for
from pixart.data.dataset import Examples
from pixart.data.plan import Plan
from pixart.data.source import Source
from pixart.data.validation import Once, split_rows
from pixart.diffusion.objective import Objective
from pixart.encoders.autoencoder import LatentSpace
from pixart.encoders.text import TextEncoder
from pixart.models.dit import PixArt
from pixart.models.initialise import spread_embedders

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def objective(config: Config) -> Objective:
    """The objective that the run trains and its samplers follow."""
    from pixart.diffusion.flow import Flow
    from pixart.diffusion.gaussian import Gaussian

    settings = config.objective.model_dump(exclude={"kind"})
    return Gaussian(**settings) if config.objective.kind == "gaussian" else Flow(**settings)


def text_encoder(config: Config) -> TextEncoder | None:
    """The frozen text encoder, None for a class-conditional run."""
    from pixart.encoders.text import load_text_encoder

    section = config.text_encoder
    if section is None:
        return None
    encoder = load_text_encoder(
        section.source, max_tokens=section.max_tokens, cleaning=section.cleaning, dtype=DTYPES[section.dtype]
    )
    if encoder.dim != section.dim:
        raise ValueError(f"text_encoder.dim is {section.dim} and {section.source} gives {encoder.dim}: set it so")
    return encoder


def autoencoder(config: Config) -> LatentSpace:
    """The frozen autoencoder."""
    from pixart.encoders.autoencoder import load_autoencoder

    section = config.autoencoder
    loaded = load_autoencoder(section.source, dtype=DTYPES[section.dtype])
    if (loaded.channels, loaded.stride) != (section.channels, section.stride):
        raise ValueError(
            f"autoencoder.channels and .stride are {section.channels} and {section.stride}, and {section.source} has "
            f"{loaded.channels} and {loaded.stride}: set them so"
        )
    return loaded


def model(config: Config) -> PixArt:
    """The transformer, its weights drawn from the run's seed."""
    torch.manual_seed(config.seed)
    channels = config.autoencoder.channels
    made = PixArt(
        **config.model.model_dump(exclude={"embedder_std"}),
        input_size=config.input_size,
        in_channels=channels,
        out_channels=2 * channels if config.learned_variance else channels,
        text_dim=None if config.text_encoder is None else config.text_encoder.dim,
        num_classes=config.data.num_classes,
    )
    spread_embedders(made, config.model.embedder_std)
    return made


def sources(config: Config) -> tuple[Source, NDArray[np.int64], Source, NDArray[np.int64]]:
    """The data to train on and those held out, each as a source and its rows."""
    section = config.data
    if section.kind == "shards":
        from pixart.data.shards import Shards

        assert section.root is not None, "the configuration was validated"
        shards = Shards(section.root)
        rows, held_out = split_rows(map(shards.key, range(len(shards))), held_out=section.validation_samples, seed=0)
        return shards, rows, shards, held_out
    from pixart.data.shapes import Shapes

    def shapes(split: Any, num_samples: int) -> Shapes:
        return Shapes(
            section.view,
            split,
            num_samples=num_samples,
            resolution=config.resolution,
            sizes=buckets_for(config.resolution, section.buckets),
            density=section.density,
            seed=section.seed,
        )

    held = section.validation_samples
    training, validation = shapes("train", section.num_samples), shapes("validation", max(1, held))
    return training, np.arange(len(training)), validation, np.arange(held)


def examples(config: Config, source: Source, plan: Plan | Once, encoder: TextEncoder | None, latents: LatentSpace,
             *, training: bool) -> Examples:  # fmt: skip
    """The examples of a plan; held-out ones keep their captions and labels, and are never mirrored."""
    section = config.data
    return Examples(
        source,
        plan,
        seed=config.seed,
        latent_channels=latents.channels,
        latent_stride=latents.stride,
        posterior_noise=latents.stochastic,
        tokenize=None if encoder is None else encoder.tokenizer.tokenize,
        max_tokens=0 if encoder is None else encoder.max_tokens,
        caption_choice=section.caption_choice,
        caption_drop=section.caption_drop if training else 0.0,
        null_label=section.num_classes,
        label_drop=section.label_drop if training else 0.0,
        size_conditioning=config.model.size_conditioning,
        aspect_ratio=section.aspect_ratio,
        flip=section.flip and training,
        stratified=section.stratified,
    )
