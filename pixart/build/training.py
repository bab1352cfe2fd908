"""A training run from its configuration to its last step."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from pixart import config as shape
from pixart.build.opening import lacking_in, opened, planned
from pixart.build.parts import autoencoder, model, objective, text_encoder
from pixart.build.reading import RunData, read_batches
from pixart.config import Config
from pixart.data.buckets import buckets_for
from pixart.encoders.autoencoder import LatentSpace
from pixart.encoders.text import TextEncoder
from pixart.formats import Weights, read
from pixart.formats.handoff import hand_off
from pixart.formats.positions import Told
from pixart.formats.table import format_table
from pixart.models.dit import PixArt
from pixart.sampling.pipeline import Pipeline
from pixart.training.checkpoint import Checkpoints, write_atomically
from pixart.training.ema import Ema
from pixart.training.evaluation import Pictures
from pixart.training.faults import Faults
from pixart.training.guard import Guard
from pixart.training.inputs import Inputs
from pixart.training.launch import make_accelerator
from pixart.training.ledger import Ledger
from pixart.training.loop import Learner, Pace, fit
from pixart.training.optim import make_optimizer
from pixart.training.run_directory import RunDirectory
from pixart.training.tracking import Averages, MetricsFile, start_tracker
from pixart.training.upkeep import Cadence, Display, Upkeep


def run_training(config: Config, make_display: Callable[[bool], Display]) -> Path:
    """Train as configured, from the run's latest checkpoint if it has one; returns the run directory.

    ``make_display`` is told whether this is the process that shows something. Raises ``ValueError`` for everything
    that a user can mend.
    """
    path = Path(config.run_dir or shape.default_run_dir(config)).expanduser()
    accelerator = make_accelerator(
        precision=config.precision,
        tf32=config.tf32,
        deterministic=config.deterministic,
        tracker=config.tracker.name,
        run_dir=path,
    )
    display = make_display(accelerator.is_main_process)
    directory = RunDirectory(path, rank=accelerator.process_index)
    try:
        _refuse_another_config(directory, config)
        learner, upkeep = _assemble(config, accelerator, directory, display)
        fit(learner, upkeep)
    finally:
        display.close()
        accelerator.end_training()
        directory.release()
    return path


def _refuse_another_config(directory: RunDirectory, config: Config) -> None:
    if not directory.has_checkpoint:
        return  # nothing was learnt by any other
    earlier = directory.earlier_config()
    if earlier is None:
        raise ValueError(f"{directory.path} has checkpoints and no config.yaml: put it back, or set another run_dir")
    if not config.resume:
        raise ValueError(f"{directory.path} holds a run already and resume=false: delete it or set another run_dir")
    old, new = shape.binding(earlier), shape.binding(config.model_dump(mode="json"))
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if changed:
        listed = ", ".join(f"{key} (was {old.get(key)}, is {new.get(key)})" for key in changed)
        raise ValueError(
            f"{directory.path} was made with another configuration: {listed}; put it back or set another run_dir"
        )


def _assemble(
    config: Config, accelerator: Accelerator, directory: RunDirectory, display: Display
) -> tuple[Learner, Upkeep]:
    start = None
    if config.init_from is not None and not directory.has_checkpoint:
        start = _read_start(config, config.init_from)  # first: the likeliest mistake is a wrong path
    given = opened(config)  # and next, a wrong folder or damaged data
    if lacks := lacking_in(config, given):
        raise ValueError("; ".join(lacks))
    encoder, latents = text_encoder(config, defer=given.stored_text), autoencoder(config).to(accelerator.device)
    if encoder is not None:
        encoder.to(accelerator.device)
    plan = planned(config, given, order_cache=directory.path / "plan")
    data = RunData(config, given, encoder, latents, plan=plan)
    bare = model(config)
    display.say(_first_line(config, accelerator, directory, bare))
    if given.quarantine is not None:
        unknown = f", and {given.unknown} of its keys are not in these data" if given.unknown else ""
        display.say(f"quarantine {given.quarantine}: {given.quarantined} sample(s) are left out{unknown}")
    if start is not None:
        display.say(f"from {start.source}{f', licence {start.licence}' if start.licence else ''}")
        display.say(format_table(hand_off(start, bare, shared_mlp=config.reparameterise)))
    prepared, optimizer = _prepare(config, accelerator, bare)
    learner = Learner(
        accelerator=accelerator,
        model=prepared,
        bare=bare,
        optimizer=optimizer,
        ema=Ema(bare, decay=config.ema.decay, warmup=config.ema.warmup),
        objective=objective(config),
        inputs=Inputs(encoder, latents, device=accelerator.device),
        read=lambda k: read_batches(config, accelerator, data.training, k),
        pace=Pace(config.steps, config.peak_lr, config.optimizer.warmup_steps, config.optimizer.clip_norm),
        guard=Guard(accelerator.device),
        averages=Averages(accelerator),
        faults=Faults(accelerator, directory.path / "bad_samples.jsonl", max_share=config.data.max_bad_share),
    )
    upkeep = Upkeep(
        directory=directory,
        checkpoints=Checkpoints(directory.checkpoints, keep=config.keep_checkpoints, warn=display.say),
        metrics=MetricsFile(directory.path / "metrics.jsonl"),
        ledger=Ledger(
            directory.path / "ledger.json",
            devices=accelerator.num_processes,
            dollars_per_device_hour=config.dollars_per_device_hour,
        ),
        cadence=Cadence(
            config.log_every, config.validate_every, config.sample_every, config.snapshot_every, config.checkpoint_every
        ),
        display=display,
        identity=_identity(config, bare, encoder, latents, data, _inherited_licence(directory, start)),
        fingerprint=data.fingerprint,
        quarantine=data.quarantine,
        pictures=_pictures(config, learner, encoder, latents),
        held_out=data.held_out(accelerator),
        on_nonfinite=config.on_nonfinite,
    )
    _introduce(config, accelerator, directory)
    if upkeep.resume(learner):
        display.say(f"resumed at step {learner.progress.step} of {config.steps}")
    return learner, upkeep


def _prepare(config: Config, accelerator: Accelerator, bare: PixArt) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    section = config.optimizer
    bare.to(accelerator.device)
    optimizer = make_optimizer(
        bare,
        lr=config.peak_lr,
        betas=section.betas,
        eps=section.eps,
        weight_decay=section.weight_decay,
        decay=section.decay,
    )
    # Nothing else is prepared: a prepared schedule would run world-size times too fast, a prepared loader would make
    # the first rank read for all.
    prepared: tuple[torch.nn.Module, torch.optim.Optimizer] = accelerator.prepare(bare, optimizer)
    prepared[0].train()
    return prepared


def _read_start(config: Config, init_from: str) -> Weights:
    """The weights to start from; what their file does not tell is taken to be as in this run's model."""
    same = Told(config.model.num_heads, config.input_size, config.model.interpolation_scale)
    return read(init_from, otherwise=same)


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


def _identity(config: Config, bare: PixArt, encoder: TextEncoder | None, latents: LatentSpace, data: RunData,
              licence: str | None) -> dict[str, Any]:  # fmt: skip
    return {
        "model_config": bare.config,
        "run_config": config.model_dump(mode="json"),
        "stamps": {
            "text_encoder": None if encoder is None else encoder.fingerprint,
            "autoencoder": latents.fingerprint,
        },
        "null_caption": None if encoder is None else data.null_caption(encoder),
        "licence": licence,
    }


def _pictures(config: Config, learner: Learner, encoder: TextEncoder | None, latents: LatentSpace) -> Pictures | None:
    """The fixed prompts (or labels) of the run, one seed each, over its buckets in turn."""
    section = config.sampling
    asked: Sequence[Any] = section.labels if encoder is None else section.prompts
    if not asked:
        return None
    pipeline = Pipeline(
        learner.bare,
        learner.objective,
        encoder,
        latents,
        device=learner.accelerator.device,
        precision=config.precision,
        told_aspect_ratio=config.data.aspect_ratio,
    )
    buckets = buckets_for(config.resolution, config.data.buckets)
    sizes = [buckets[i % len(buckets)] for i in range(len(asked))]

    def draw(positions: Sequence[int]) -> list[NDArray[np.uint8]]:
        chosen = [asked[i] for i in positions]
        return pipeline(
            prompts=None if encoder is None else chosen,
            labels=chosen if encoder is None else None,
            seeds=[section.seed + i for i in positions],
            sizes=[sizes[i] for i in positions],
            guidance_scale=section.guidance_scale,
            num_inference_steps=section.num_inference_steps,
            guidance_channels=section.guidance_channels,
            scheduler_name=section.scheduler,
            batch_size=config.micro_batch,
        )

    return Pictures(draw, [str(prompt) for prompt in asked])


def _first_line(config: Config, accelerator: Accelerator, directory: RunDirectory, bare: PixArt) -> str:
    count = sum(p.numel() for p in bare.parameters())
    return (
        f"stage {config.stage}, scale {config.scale}: {count:,} parameters, world size {accelerator.num_processes} on "
        f"{accelerator.device.type}, {config.precision}, global batch {config.global_batch}, {config.steps} steps, "
        f"in {directory.path}"
    )


def _introduce(config: Config, accelerator: Accelerator, directory: RunDirectory) -> None:
    """Write down what this run is, before its first step."""
    values = config.model_dump(mode="json")
    if accelerator.is_main_process:
        directory.write_config(values)
        directory.write_environment(world_size=accelerator.num_processes, device=accelerator.device)
    start_tracker(
        accelerator,
        name=config.tracker.name,
        project=config.tracker.project,
        run_dir=directory.path,
        config=shape.flatten(values),
    )
