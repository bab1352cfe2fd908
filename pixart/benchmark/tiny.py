"""The suite ``tiny``: the miniature's training step beside what this machine can do at the same matrix sizes."""

from collections.abc import Iterator

import torch
from torch.profiler import ProfilerActivity, profile

from pixart.benchmark.case import Target
from pixart.benchmark.ceilings import Layers
from pixart.benchmark.device import Choice, pick
from pixart.benchmark.examples import Text, make_examples
from pixart.benchmark.peers import drawn, known
from pixart.benchmark.record import Figure
from pixart.benchmark.speed import CEILING, Speed
from pixart.benchmark.step import TrainingStep, adamw
from pixart.benchmark.suites import Run
from pixart.benchmark.timing import interleaved
from pixart.config import FlowObjective, Model, Positive, Section
from pixart.diffusion.flow import Flow
from pixart.models.dit import PixArt
from pixart.models.flops import products, training_flops

SUITE = "tiny"


class Settings(Section):
    """The keys of ``configs/suite/tiny.yaml``."""

    device: Choice
    model: Model
    objective: FlowObjective
    text: Text
    channels: Positive
    side: Positive
    batch: Positive
    repeats: Positive
    shown: Positive
    target: Target


def measure(settings: Settings, run: Run) -> Iterator[Figure]:
    """Rates and shares of the step, and the operators that it spends most time in."""
    device = pick(settings.device)
    cells = f"{settings.side} x {settings.side} cells"
    run.say(f"{settings.batch} pictures of {cells} on {device.type}, {torch.get_num_threads()} threads")
    shape = (settings.channels, settings.side, settings.side)
    text, dtype = settings.text, torch.float32
    examples = make_examples(settings.batch, shape=shape, text=text, dtype=dtype, device=device, seed=run.seed)
    model = _model(settings).to(device)
    step = TrainingStep(
        model,
        model,
        examples,
        objective=Flow(**settings.objective.model_dump(exclude={"kind"})),
        optimizer=adamw(model),
        precision="fp32",
        repeats=settings.repeats,
    )
    tokens = (settings.side // model.patch_size) ** 2
    all_products = products(model.config, settings.batch, tokens, examples.text_tokens)
    layers = Layers(all_products, backward=True, dtype=dtype, device=device)
    flops = training_flops(model.config, images=settings.batch, image_tokens=tokens, text_tokens=examples.text_tokens)
    yield from Speed(
        SUITE,
        "step",
        interleaved(
            {"ours": step, CEILING: layers.contender(settings.batch, repeats=settings.repeats)},
            rounds=run.rounds,
            seed=run.seed,
        ),
        unit="images",
        flops=flops // settings.batch,
        layers_flops=layers.flops // settings.batch,
        peak=None,
        targets={"share_of_matmul": settings.target},
        best="ours",
    ).figures()
    yield from _profiled(step, settings.shown)


def _model(settings: Settings) -> PixArt:
    given = known(settings.model.model_dump())
    sizes = {"input_size": settings.side, "in_channels": settings.channels, "out_channels": settings.channels}
    return drawn(PixArt(**{**given, **sizes, "text_dim": settings.text.dim, "num_classes": None}))


def _profiled(step: TrainingStep, shown: int) -> Iterator[Figure]:
    """The share of the host's time, by operator, of what each does itself."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    events = sorted(profiler.key_averages(), key=lambda event: event.self_cpu_time_total, reverse=True)
    total = sum(event.self_cpu_time_total for event in events)
    for event in events[:shown]:
        share = event.self_cpu_time_total / total
        yield Figure(SUITE, f"profile: {event.key}, {event.count} calls", share, "of the step's time")
