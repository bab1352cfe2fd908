"""A training run from its configuration to its last step."""

from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import NamedTuple

from accelerate import Accelerator

from pixart import config as shape
from pixart.build.learning import make_learner, sharding_of
from pixart.build.looking_after import make_upkeep
from pixart.build.opening import lacking_in, opened, planned
from pixart.build.parts import autoencoder, model, text_encoder
from pixart.build.preflight import Preflight
from pixart.build.reading import RunData
from pixart.config import Config
from pixart.formats import Weights, read
from pixart.formats.handoff import hand_off
from pixart.formats.positions import Told
from pixart.formats.table import format_table
from pixart.models.dit import PixArt
from pixart.models.float8 import check_float8
from pixart.training.log import Display
from pixart.training.loop import Learner, fit
from pixart.training.processes.launch import launched, told_by_first
from pixart.training.processes.sharding import Sharding
from pixart.training.processes.shared_disk import untouched
from pixart.training.processes.stopping import Signals, requeue_file
from pixart.training.run_directory import RunDirectory
from pixart.training.tracking import start_tracker
from pixart.training.upkeep import Upkeep


class Ended(NamedTuple):
    """How a run ended."""

    run_dir: Path
    step: int  # optimizer steps made
    stopped_by: str | None  # the signal that asked for it; None where the run is done, or was only checked


def run_training(config: Config, make_display: Callable[[bool], Display]) -> Ended:
    """Train as configured, from the run's latest checkpoint if it has one, until it is done or asked to stop.

    ``make_display`` is told whether this is the process that shows something. Raises ``ValueError`` for everything
    that a user can mend.
    """
    path = Path(config.run_dir or shape.default_run_dir(config)).expanduser()
    sharding = sharding_of(config)
    with (
        Signals() as signals,
        launched(
            precision=config.precision,
            tf32=config.tf32,
            deterministic=config.deterministic,
            tracker=config.tracker.name,
            run_dir=path,
        ) as accelerator,
    ):
        # All that it held is free when the processes part.
        return _train(config, accelerator, sharding, told_by_first(path), make_display, signals)


def _train(
    config: Config,
    accelerator: Accelerator,
    sharding: Sharding,
    path: Path,
    make_display: Callable[[bool], Display],
    signals: Signals,
) -> Ended:
    check_float8(config.float8, accelerator.device, precision=config.precision)
    checks = Preflight(config, accelerator) if config.preflight else None
    nothing_stays = untouched(checks.ranks, path) if checks and config.preflight == "only" else nullcontext()
    with closing(make_display(accelerator.is_main_process)) as display, nothing_stays:
        directory = RunDirectory(path, rank=accelerator.process_index)
        try:
            if accelerator.is_main_process and config.preflight != "only":
                requeue_file(path).unlink(missing_ok=True)  # what it asks for is happening
            _refuse_another_config(directory, config)
            learner, upkeep, data = _assemble(config, accelerator, sharding, directory, display, signals)
            with upkeep.resumption:  # the last checkpoint is whole before the processes part
                if checks is not None:
                    checks(directory, learner, data, display)
                if config.preflight == "only":
                    return Ended(path, 0, None)
                _introduce(config, accelerator, directory)
                if upkeep.resume(learner):
                    display.say(f"resumed at step {learner.progress.step} of {config.steps}")
                fit(learner, upkeep)
            return Ended(path, learner.progress.step, upkeep.stopping.reason)
        finally:
            directory.release()


def _refuse_another_config(directory: RunDirectory, config: Config) -> None:
    if not directory.has_checkpoint:
        return  # nothing was learnt by any other
    earlier = directory.earlier_config()
    if earlier is None:
        raise ValueError(f"{directory.path} has checkpoints and no config.yaml: put it back, or set another run_dir")
    if not config.resume:
        raise ValueError(f"{directory.path} holds a run already and resume=false: delete it or set another run_dir")
    given = config.model_dump(mode="json")
    old, new = shape.binding(earlier), shape.binding(given)
    was, now = (shape.UNSAID | shape.flatten(values) for values in (earlier, given))
    changed = sorted(key for key in old.keys() | new.keys() if was.get(key) != now.get(key))
    if changed:
        why = {"steps": ": its rate falls until the last"}
        listed = ", ".join(f"{key} (was {was.get(key)}, is {now.get(key)}{why.get(key, '')})" for key in changed)
        raise ValueError(
            f"{directory.path} was made with another configuration: {listed}; put it back or set another run_dir"
        )


def _assemble(
    config: Config,
    accelerator: Accelerator,
    sharding: Sharding,
    directory: RunDirectory,
    display: Display,
    signals: Signals,
) -> tuple[Learner, Upkeep, RunData]:
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
    display.say(_first_line(config, accelerator, sharding, directory, bare))
    if sharding.said is not None:
        display.say(sharding.said)
    if given.quarantine is not None:
        unknown = f", and {given.unknown} of its keys are not in these data" if given.unknown else ""
        display.say(f"quarantine {given.quarantine}: {given.quarantined} sample(s) are left out{unknown}")
    if start is not None:
        display.say(f"from {start.source}{f', licence {start.licence}' if start.licence else ''}")
        display.say(format_table(hand_off(start, bare, shared_mlp=config.reparameterise)))
    if config.compile:
        display.say("compile=true: the blocks are compiled before the first step, for some seconds to minutes")
    learner = make_learner(config, accelerator, sharding, directory, bare, data, encoder, latents)
    upkeep = make_upkeep(config, directory, display, learner, data, encoder, latents, start, signals)
    return learner, upkeep, data


def _read_start(config: Config, init_from: str) -> Weights:
    """The weights to start from; what their file does not tell is taken to be as in this run's model."""
    same = Told(config.model.num_heads, config.input_size, config.model.interpolation_scale)
    return read(init_from, otherwise=same)


def _first_line(
    config: Config, accelerator: Accelerator, sharding: Sharding, directory: RunDirectory, bare: PixArt
) -> str:
    count = sum(p.numel() for p in bare.parameters())
    return (
        f"stage {config.stage}, scale {config.scale}: {count:,} parameters, world size {accelerator.num_processes} on "
        f"{accelerator.device.type}, sharding {sharding.kind}, {config.precision}, global batch "
        f"{config.global_batch}, {config.steps} steps, in {directory.path}"
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
