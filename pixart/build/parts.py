"""The parts of a run, each from its section of the configuration."""

import torch

from pixart.build.remembered import Remembered
from pixart.config import Config
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


def text_encoder(config: Config | Remembered, *, defer: bool = False, eight_bit: bool = False) -> TextEncoder | None:
    """The frozen text encoder, None for a class-conditional run; with ``defer`` its weights are read when needed."""
    from pixart.encoders.text import load_text_encoder

    section = config.text_encoder
    if section is None:
        return None
    encoder = load_text_encoder(
        section.source,
        max_tokens=section.max_tokens,
        cleaning=section.cleaning,
        dtype=DTYPES[section.dtype],
        defer=defer,
        eight_bit=eight_bit,
    )
    if encoder.dim != section.dim:
        mend = "set it so" if isinstance(config, Config) else "give the one that the weights were trained with"
        raise ValueError(f"text_encoder.dim is {section.dim} and {section.source} gives {encoder.dim}: {mend}")
    return encoder


def autoencoder(config: Config | Remembered) -> LatentSpace:
    """The frozen autoencoder."""
    from pixart.encoders.autoencoder import load_autoencoder

    section = config.autoencoder
    loaded = load_autoencoder(section.source, dtype=DTYPES[section.dtype])
    if (loaded.channels, loaded.stride) != (section.channels, section.stride):
        mend = "set them so" if isinstance(config, Config) else "give the one that the weights were trained with"
        raise ValueError(
            f"autoencoder.channels and .stride are {section.channels} and {section.stride}, and {section.source} has "
            f"{loaded.channels} and {loaded.stride}: {mend}"
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
