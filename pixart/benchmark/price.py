"""The suite ``price``: what the paper's whole recipe would cost at rates measured here, beside what it cost then."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pixart.benchmark.case import Target
from pixart.benchmark.record import PARAMETERS, RESOLUTION, Figure, read_figures
from pixart.benchmark.suites import Run
from pixart.config import Positive, Rate, Section

SUITE = "price"
_DAY = 86_400  # seconds
_RATE = "images_per_second"
_LEAST = 1e-6  # images a second, less is none


class Stage(Section):
    """A row of the paper's table 4."""

    resolution: Positive
    steps: Positive
    global_batch: Positive
    images_per_second: Annotated[float, Field(gt=0)] | None

    @property
    def samples(self) -> int:
        """Images seen."""
        return self.steps * self.global_batch


class Settings(Section):
    """The keys of ``configs/suite/price.yaml``."""

    record: str | None
    contender: Literal["eager", "compiled", "ours", "ours_compiled", "ours_float8"]
    least_parameters: Rate  # millions
    dollars_per_device_hour: Rate
    stages: dict[str, Stage]
    paper_samples: Positive
    paper_days: Positive
    paper_dollars: Positive
    target: Target


def check(settings: Settings) -> None:
    """``ValueError`` where the record is none."""
    if settings.record is not None:
        _recorded(settings.record)


def measure(settings: Settings, run: Run) -> Iterator[Figure]:
    """Device-days of each stage and dollars of all; a line for each stage that has no rate."""
    figures = run.measured if settings.record is None else _recorded(settings.record)
    known = rates(figures, settings.contender, least_parameters=settings.least_parameters)
    days: dict[str, float] = {}
    for name, stage in settings.stages.items():
        rate = stage.images_per_second or known.get(stage.resolution)
        if rate is None:
            run.say(
                f"{name}: no rate of {settings.contender} at {stage.resolution} px with "
                f"{settings.least_parameters:g} M parameters or more {_among(figures, settings)}; measure "
                f"suite=train_step on a GPU, or give suites.price.record=<its json> or "
                f"suites.price.stages.{name}.images_per_second="
            )
            continue
        days[name] = stage.samples / rate / _DAY
        yield Figure(SUITE, f"{name}: samples", stage.samples / 1e6, "M")
        yield Figure(SUITE, f"{name}: at {rate:.4g} images/s", days[name], "device-days")
    if len(days) < len(settings.stages):
        run.say("no price of the whole recipe: a stage of it has no rate")
        return
    total = sum(days.values())
    dollars = total * 24 * settings.dollars_per_device_hour
    if sum(stage.samples for stage in settings.stages.values()) < settings.paper_samples:
        run.say(f"these stages are not the paper's, of {settings.paper_samples / 1e6:,.0f} M samples, and not compared")
        yield Figure(SUITE, "these stages", total, "device-days")
        yield Figure(SUITE, f"these stages at ${settings.dollars_per_device_hour:g} a device-hour", dollars, "dollars")
        return
    yield Figure(SUITE, "whole recipe", total, "device-days", target=settings.target)
    yield Figure(
        SUITE, f"whole recipe over the paper's {settings.paper_days} A100-days", total / settings.paper_days, ""
    )
    yield Figure(SUITE, f"whole recipe at ${settings.dollars_per_device_hour:g} a device-hour", dollars, "dollars")
    yield Figure(
        SUITE, f"whole recipe over the paper's ${settings.paper_dollars}", dollars / settings.paper_dollars, ""
    )


def rates(figures: Iterable[Figure], contender: str, *, least_parameters: float) -> dict[int, float]:
    """The best images a second of ``contender`` by resolution, of models of ``least_parameters`` millions or more."""
    best: dict[int, float] = {}
    for said in _cases(figures).values():
        rate, resolution = said.get(f"{contender} {_RATE}", 0.0), int(said.get(RESOLUTION, 0))
        if rate > best.get(resolution, _LEAST) and said.get(PARAMETERS, 0.0) >= least_parameters:
            best[resolution] = rate
    return best


def _cases(figures: Iterable[Figure]) -> dict[str, dict[str, float]]:
    """Case of the suite ``train_step`` -> name of a figure -> its value."""
    cases: dict[str, dict[str, float]] = {}
    for figure in figures:
        case, _, name = figure.name.partition(": ")
        if figure.suite == "train_step":
            cases.setdefault(case, {})[name] = figure.value
    return cases


def _among(figures: Iterable[Figure], settings: Settings) -> str:
    """Of which cases there are rates, in words."""
    found = [
        f"{case} ({_size(said)}: {', '.join(name.removesuffix(f' {_RATE}') for name in said if name.endswith(_RATE))})"
        for case, said in _cases(figures).items()
        if any(name.endswith(_RATE) for name in said)
    ]
    where = "in this run" if settings.record is None else f"in {settings.record}"
    return f"{where}, which has {' and '.join(found) or 'none of suite=train_step'}"


def _size(said: Mapping[str, float]) -> str:
    if not said.keys() >= {RESOLUTION, PARAMETERS}:
        return "which does not say its resolution and parameters and is to be measured again"
    return f"{said[RESOLUTION]:g} px, {said[PARAMETERS]:.0f} M"


def _recorded(record: str) -> Sequence[Figure]:
    """Figures of a record; ``ValueError`` for a file that is none."""
    path = Path(record).expanduser()
    try:
        return read_figures(path)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"record: {path} is no record of tools/benchmark.py ({error})") from error
