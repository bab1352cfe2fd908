"""The learner of a run: model, optimizer, averages, and the batches that it reads."""

import torch
from accelerate import Accelerator

from pixart.build.compiling import has_static_shapes, rehearsed
from pixart.build.parts import objective
from pixart.build.reading import RunData, read_batches
from pixart.config import Config, Muon
from pixart.encoders.autoencoder import LatentSpace
from pixart.encoders.text import TextEncoder
from pixart.models.compiled import compile_blocks
from pixart.models.dit import PixArt
from pixart.models.float8 import use_float8
from pixart.training.ema import Ema
from pixart.training.faults import Faults
from pixart.training.guard import Guard
from pixart.training.inputs import Inputs
from pixart.training.loop import Learner, Pace
from pixart.training.optim import make_optimizer
from pixart.training.processes.launcher import launcher
from pixart.training.processes.sharding import Sharding, decided, distributed
from pixart.training.rehearsal import rehearse
from pixart.training.run_directory import RunDirectory
from pixart.training.tracking import Averages


def make_learner(
    config: Config,
    accelerator: Accelerator,
    sharding: Sharding,
    directory: RunDirectory,
    bare: PixArt,
    data: RunData,
    encoder: TextEncoder | None,
    latents: LatentSpace,
) -> Learner:
    """All that one optimizer step touches, at step 0 with the weights that ``bare`` holds."""
    prepared, optimizer = _prepare(config, accelerator, sharding, bare)
    return Learner(
        accelerator=accelerator,
        model=prepared,
        bare=bare,
        optimizer=optimizer,
        ema=Ema(
            bare,
            decay=config.ema.decay,
            warmup=config.ema.warmup,
            others=config.ema.others,
            power=config.ema.power,
        ),
        objective=objective(config),
        inputs=Inputs(encoder, latents, device=accelerator.device),
        read=lambda k: read_batches(config, accelerator, data.training, k),
        pace=_pace(config),
        guard=Guard(accelerator.device),
        averages=Averages(accelerator),
        faults=Faults(accelerator, directory.path / "bad_samples.jsonl", max_share=config.data.max_bad_share),
    )


def _pace(config: Config) -> Pace:
    section = config.optimizer
    return Pace(config.steps, section.warmup_steps, section.lr_decay, section.clip_norm)


def sharding_of(config: Config) -> Sharding:
    """How the run is distributed; to be asked before there is an Accelerator, which would follow the launcher."""
    return decided(config.sharding, launcher(), checkpointing=config.model.checkpointing)


def _prepare(
    config: Config, accelerator: Accelerator, sharding: Sharding, bare: PixArt
) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    section = config.optimizer
    use_float8(bare, accelerator.device, recipe=config.float8)
    if config.compile:
        compile_blocks(bare, accelerator.device, static=has_static_shapes(config, accelerator.device))
    # Nothing else is prepared: a prepared schedule would run world-size times too fast, a prepared loader would make
    # the first rank read for all.
    prepared = distributed(accelerator, bare, sharding)
    if config.compile:
        tokens = 0 if config.text_encoder is None else config.text_encoder.max_tokens
        for images in rehearsed(config, accelerator.device, processes=accelerator.num_processes):
            rehearse(accelerator, prepared, bare, images=images, tokens=tokens)
    optimizer = make_optimizer(
        bare,
        lr=config.peak_lr,
        betas=section.betas,
        eps=section.eps,
        weight_decay=section.weight_decay,
        decay=section.decay,
        matrix_lr=config.peak_matrix_lr,
        momentum=section.momentum if isinstance(section, Muon) else 0.0,
    )
    return prepared, accelerator.prepare_optimizer(optimizer)
