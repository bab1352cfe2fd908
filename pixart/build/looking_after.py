"""What looks after a run: its log, pictures, snapshots and checkpoints."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import nn

from pixart.aside import write_atomically
from pixart.build.reading import RunData
from pixart.config import Config, binding
from pixart.data.buckets import buckets_for
from pixart.encoders.autoencoder import LatentSpace
from pixart.encoders.text import TextEncoder
from pixart.formats import Weights
from pixart.sampling.pipeline import Pipeline
from pixart.training.checkpoints.checkpoint import Checkpoints
from pixart.training.checkpoints.resumption import Resumption
from pixart.training.evaluation import Pictures
from pixart.training.ledger import Ledger
from pixart.training.log import Display, Log
from pixart.training.loop import Learner
from pixart.training.processes.launch import meeting_store
from pixart.training.processes.ranks import Ranks
from pixart.training.processes.stopping import Agreement, Signals, Stopping
from pixart.training.run_directory import RunDirectory
from pixart.training.snapshots import Snapshots
from pixart.training.tracking import MetricsFile
from pixart.training.upkeep import Cadence, Upkeep


def make_upkeep(
    config: Config,
    directory: RunDirectory,
    display: Display,
    learner: Learner,
    data: RunData,
    encoder: TextEncoder | None,
    latents: LatentSpace,
    start: Weights | None,
    signals: Signals,
) -> Upkeep:
    """The surroundings of ``learner``; ``start`` is what the run began from, None for nothing or a resumed one."""
    devices = learner.accelerator.num_processes
    return Upkeep(
        directory=directory,
        cadence=Cadence(
            config.log_every, config.validate_every, config.sample_every, config.snapshot_every, config.checkpoint_every
        ),
        log=Log(
            metrics=MetricsFile(directory.metrics),
            ledger=Ledger(
                directory.path / "ledger.json",
                devices=devices,
                dollars_per_device_hour=config.dollars_per_device_hour,
            ),
            display=display,
            on_nonfinite=config.on_nonfinite,
        ),
        resumption=Resumption(
            run_dir=directory.path,
            checkpoints=Checkpoints(
                directory.checkpoints,
                Ranks(),
                keep=config.keep_checkpoints,
                keep_every=config.keep_every,
                logs=(directory.metrics, directory.bad_samples),
                warn=display.say,
            ),
            background=config.background_save,
            fingerprint=data.fingerprint,
            quarantine=data.quarantine,
        ),
        snapshots=Snapshots(
            directory, _identity(config, learner, encoder, latents, data, _inherited_licence(directory, start))
        ),
        pictures=_pictures(config, learner, encoder, latents),
        held_out=data.held_out(learner.accelerator),
        stopping=Stopping(directory.path, signals, _agreement(learner.accelerator)),
    )


def _agreement(accelerator: Accelerator) -> Agreement:
    device = accelerator.device
    return Agreement(
        meeting_store("stopping"),
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        settle=lambda: torch.cuda.synchronize(device) if device.type == "cuda" else None,
    )


def _identity(config: Config, learner: Learner, encoder: TextEncoder | None, latents: LatentSpace, data: RunData,
              licence: str | None) -> dict[str, Any]:  # fmt: skip
    return {
        "model_config": learner.bare.config,
        "run_config": config.model_dump(mode="json"),
        "stamps": {
            "text_encoder": None if encoder is None else encoder.fingerprint,
            "autoencoder": latents.fingerprint,
        },
        "null_caption": None if encoder is None else data.null_caption(encoder),
        "licence": licence,
        "run": _fingerprint(config, data),
    }


def _fingerprint(config: Config, data: RunData) -> str:
    """What all snapshots of a run share, resumed or not: all that decides its numbers but the weights it began with."""
    decisive = json.dumps([binding(config.model_dump(mode="json")), data.fingerprint], sort_keys=True)
    return hashlib.sha256(decisive.encode()).hexdigest()


def _inherited_licence(directory: RunDirectory, start: Weights | None) -> str | None:
    """The licence of the weights that the run started from; a resumed run finds it where the first one wrote it."""
    file = directory.path / "licence.txt"
    if directory.has_checkpoint:
        return file.read_text(encoding="utf-8").strip() if file.is_file() else None
    licence = None if start is None else start.licence
    if directory.rank == 0 and licence is None:
        file.unlink(missing_ok=True)
    elif directory.rank == 0:
        write_atomically(file, f"{licence}\n")
    return licence


def _pictures(config: Config, learner: Learner, encoder: TextEncoder | None, latents: LatentSpace) -> Pictures | None:
    """The fixed prompts (or labels) of the run, one seed each, over its buckets in turn."""
    section = config.sampling
    asked: Sequence[Any] = section.labels if encoder is None else section.prompts
    if not asked:
        return None
    buckets = buckets_for(config.resolution, config.data.buckets)
    sizes = [buckets[i % len(buckets)] for i in range(len(asked))]

    def draw(model: nn.Module, positions: Sequence[int]) -> list[NDArray[np.uint8]]:
        pipeline = Pipeline(
            model,
            learner.objective,
            encoder,
            latents,
            device=learner.accelerator.device,
            precision=config.precision,
            told_aspect_ratio=config.data.aspect_ratio,
        )
        chosen = [asked[i] for i in positions]
        return pipeline(
            prompts=None if encoder is None else chosen,
            labels=chosen if encoder is None else None,
            seeds=[section.seed + i for i in positions],
            sizes=[sizes[i] for i in positions],
            guidance_scale=section.guidance_scale,
            num_inference_steps=section.num_inference_steps,
            guidance_channels=section.guidance_channels,
            guidance_interval=section.guidance_interval,
            scheduler_name=section.scheduler,
            batch_size=config.micro_batch,
            refuse_nonfinite=False,  # no reason to end a run
        )

    return Pictures(draw, [str(prompt) for prompt in asked])
