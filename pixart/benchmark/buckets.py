"""The suite ``buckets``: what compiled blocks compile for 40 aspect ratios, and how long that holds training up."""

import time
from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from pixart.benchmark.case import Case, on
from pixart.benchmark.device import DTYPES, Choice, forget_compiled, pick, precision_on, settle
from pixart.benchmark.examples import CHANNELS, STRIDE, Text, make_examples
from pixart.benchmark.peers import ours
from pixart.benchmark.record import Figure
from pixart.benchmark.step import TrainingStep
from pixart.benchmark.suites import Run
from pixart.benchmark.timing import Spread
from pixart.config import GaussianObjective, Model, Section
from pixart.data.buckets import Bucket, official_buckets
from pixart.diffusion.gaussian import Gaussian
from pixart.models.compiled import compile_blocks, missing_compiler
from pixart.models.precision import in_tf32

SUITE = "buckets"


class AroundCase(Case):
    """A square whose area 40 sizes have."""

    resolution: Annotated[int, Field(gt=0, multiple_of=256)]

    figures = frozenset({"graphs"})


class Settings(Section):
    """The keys of ``configs/suite/buckets.yaml``."""

    device: Choice
    model: Model
    objective: GaussianObjective
    text: Text
    backend: Literal["inductor", "eager"]
    tf32: bool
    cpu: AroundCase
    cuda: AroundCase


def check(settings: Settings) -> None:
    """``ValueError`` where nothing can be compiled for the device."""
    device = pick(settings.device)
    if settings.backend == "inductor" and (lacking := missing_compiler(device.type)):
        raise ValueError(f"it compiles, and {lacking}; or set suites.buckets.backend=eager")


def measure(settings: Settings, run: Run) -> Iterator[Figure]:
    """A step at each size in random order, from an empty memory of graphs, and then each once more."""
    with in_tf32(settings.tf32):
        yield from _measured(settings, run)


def _measured(settings: Settings, run: Run) -> Iterator[Figure]:
    from torch._dynamo.utils import counters

    device = pick(settings.device)
    case = on(device, settings.cpu, settings.cuda)
    buckets = official_buckets(case.resolution)
    order = np.random.default_rng(run.seed).permutation(len(buckets))
    steps = _steps(settings, case, [buckets[i] for i in order], device, seed=run.seed)
    run.say(f"{len(buckets)} sizes around {case.resolution} px, {case.depth} blocks, on {device.type}")
    forget_compiled()
    counters.clear()
    first, graphs = [], []
    for step in steps:
        first.append(_seconds(step))
        graphs.append(counters["stats"]["unique_graphs"])
    again = np.array([_seconds(step) for step in steps])
    if counters["stats"]["unique_graphs"] != graphs[-1]:
        raise RuntimeError(f"graphs were made for sizes that had been there before: {graphs[-1]} became more")
    late = np.maximum(0.0, np.array(first) - again)
    yield Figure(
        SUITE, f"graphs of the block after {len(steps)} sizes", graphs[-1], "graphs", target=case.targets.get("graphs")
    )
    yield Figure(SUITE, "sizes until the last of them was made", 1 + graphs.index(graphs[-1]), "sizes")
    yield Figure(SUITE, "compilation, all steps together", late.sum(), "s")
    yield Figure(SUITE, "compilation, the longest wait for one step", late.max(), "s")
    yield Figure.spread(SUITE, "a step, compiled", Spread.of(again), "s")


def _steps(
    settings: Settings, case: Case, buckets: list[Bucket], device: torch.device, *, seed: int
) -> list[TrainingStep]:
    """One model; for each size a micro-batch with captions of its own."""
    precision = precision_on(device, case.precision)
    model = ours(settings.model, case, text_dim=settings.text.dim, device=device)
    compile_blocks(model, device, backend=settings.backend)
    objective = Gaussian(**settings.objective.model_dump(exclude={"kind"}))
    return [
        TrainingStep(
            model,
            model,
            make_examples(
                case.batch,
                shape=(CHANNELS, bucket.height // STRIDE, bucket.width // STRIDE),
                text=settings.text,
                dtype=DTYPES[precision],
                device=device,
                seed=seed + i,
            ),
            objective=objective,
            optimizer=None,
            precision=precision,
            repeats=case.repeats,
        )
        for i, bucket in enumerate(buckets)
    ]


def _seconds(step: TrainingStep) -> float:
    settle(step.device)
    began = time.perf_counter()
    step()
    return time.perf_counter() - began
