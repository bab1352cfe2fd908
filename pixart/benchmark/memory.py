"""The suite ``memory``: the peak of a training step by micro-batch, checkpointing and adaLN; and of frugal sampling."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from pixart.benchmark.case import Case, Resolution, Target, on
from pixart.benchmark.device import Choice, Wanted, pick
from pixart.benchmark.examples import Text
from pixart.benchmark.frugal import frugal_peak
from pixart.benchmark.memory_step import peak_of_step
from pixart.benchmark.peers import ours
from pixart.benchmark.record import Figure
from pixart.benchmark.suites import Run
from pixart.config import GaussianObjective, Model, Positive, Section

SUITE = "memory"

Checkpointing = Literal["none", "blocks", "selective"]
Steps = Annotated[int, Field(gt=0, lt=1000)]  # fewer than the schedule has


class High(Section):
    """One step at a high resolution, size-conditioned, and what it is to fit into."""

    resolution: Resolution
    batch: Positive
    checkpointing: Checkpointing
    target: Target


class Sizes(Section):
    """What is measured on one kind of device."""

    precision: Wanted
    resolution: Resolution
    depth: Positive
    batches: tuple[Positive, ...]
    checkpointing: tuple[Checkpointing, ...]
    adaln_batch: Positive
    high: High | None
    low_memory_steps: Steps | None  # of sample.py low_memory=true; None: not on this kind of device


class Settings(Section):
    """The keys of ``configs/suite/memory.yaml``."""

    device: Choice
    model: Model
    objective: GaussianObjective
    text: Text
    low_memory: Target
    cpu: Sizes
    cuda: Sizes


def measure(settings: Settings, run: Run) -> Iterator[Figure]:
    """One process for each figure."""
    device = pick(settings.device)
    sizes = on(device, settings.cpu, settings.cuda)
    for checkpointing in sizes.checkpointing:
        for batch in sizes.batches:
            case = _case(sizes, batch=batch, checkpointing=checkpointing)
            yield from _step(settings, case, run, device, f"{case.resolution} px, checkpointing {checkpointing}")
    yield from _adaln(settings, sizes, run, device)
    if sizes.high is None:
        run.say("a step of stage 3 at 1024 px: not on this device")
    else:
        asked = sizes.high.model_dump(exclude={"target"})
        case = _case(sizes, **asked, size_conditioning=True)
        yield from _step(settings, case, run, device, f"stage 3, {case.resolution} px", target=sizes.high.target)
    if sizes.low_memory_steps is None:
        key = f"suites.memory.{device.type}.low_memory_steps"
        run.say(f"low_memory sampling: not without {key}=2, on a CPU minutes and 12 GB of disk")
        return
    true = _case(
        sizes, batch=1, resolution=1024, depth=settings.model.depth, checkpointing="none", size_conditioning=True
    )
    steps, target = sizes.low_memory_steps, settings.low_memory
    yield from frugal_peak(settings.model, true, run, device, steps=steps, target=target)


def _case(sizes: Sizes, **changes: Any) -> Case:
    given = {"precision": sizes.precision, "resolution": sizes.resolution, "depth": sizes.depth}
    return Case(**{**given, "repeats": 1, "size_conditioning": False, "targets": {}, **changes})


def _peak(settings: Settings, case: Case, device: torch.device, adaln: str = "single") -> float | None:
    shape, objective, text = settings.model, settings.objective, settings.text
    return peak_of_step(case, model=shape, objective=objective, text=text, device=device, adaln=adaln)


def _step(
    settings: Settings, case: Case, run: Run, device: torch.device, what: str, target: str | None = None
) -> Iterator[Figure]:
    name = f"{what}, micro-batch {case.batch}: peak of a step"
    run.say(name)
    peak = _peak(settings, case, device)
    if peak is None:
        run.say(f"{name}: does not fit the memory of this device")
        return
    yield Figure(SUITE, name, peak / 1024, "GiB", target=target)


def _adaln(settings: Settings, sizes: Sizes, run: Run, device: torch.device) -> Iterator[Figure]:
    """One modulation for all blocks against one each, at equal micro-batch (paper section 3.3, figure 6)."""
    case = _case(sizes, batch=sizes.adaln_batch, checkpointing="none")
    counts: dict[str, int] = {}
    peaks: dict[str, float] = {}
    for adaln in ("single", "per_block"):
        run.say(f"adaln {adaln}, micro-batch {case.batch}")
        text_dim = settings.text.dim
        model = ours(settings.model, case, text_dim=text_dim, device=torch.device("meta"), adaln=adaln)
        counts[adaln] = sum(parameter.numel() for parameter in model.parameters())
        yield Figure(SUITE, f"adaln {adaln}: parameters", counts[adaln] / 1e6, "M")
        peak = _peak(settings, case, device, adaln)
        if peak is None:
            run.say(f"adaln {adaln}, micro-batch {case.batch}: does not fit the memory of this device")
            continue
        peaks[adaln] = peak
        yield Figure(SUITE, f"adaln {adaln}, micro-batch {case.batch}: peak of a step", peak / 1024, "GiB")
    saved = 1 - counts["single"] / counts["per_block"]
    yield Figure(SUITE, "parameters saved by adaln single (paper: 0.26)", saved, "of per_block's")
    if len(peaks) == len(counts):
        saved = 1 - peaks["single"] / peaks["per_block"]
        yield Figure(SUITE, "memory saved by adaln single (paper: 0.21)", saved, "of per_block's")
