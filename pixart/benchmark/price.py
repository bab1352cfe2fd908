"""The suite ``price``: what the paper's whole recipe would cost at rates measured here, beside what it cost then."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from pixart.benchmark.case import Target
from pixart.benchmark.record import BLOCKS, Figure, read_figures
from pixart.benchmark.suites import Run
from pixart.config import Positive, Rate, Section

SUITE = "price"
_DAY = 86_400  # seconds


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
    contender: str
    depth: Positive
    dollars_per_device_hour: Rate
    stages: dict[str, Stage]
    paper_days: Positive
    paper_dollars: Positive
    target: Target


def measure(settings: Settings, run: Run) -> Iterator[Figure]:
    """Device-days of each stage and dollars of all; a line for each stage that has no rate."""
    known = rates(_recorded(settings, run), settings.contender, settings.depth)
    days: dict[str, float] = {}
    for name, stage in settings.stages.items():
        rate = stage.images_per_second or known.get(f"px{stage.resolution}")
        if rate is None:
            run.say(
                f"{name}: no rate at {stage.resolution} px of {settings.depth} blocks; measure suite=train_step on a "
                f"GPU, or give suites.price.record=<its json> or suites.price.stages.{name}.images_per_second="
            )
            continue
        days[name] = stage.samples / rate / _DAY
        yield Figure(SUITE, f"{name}: samples", stage.samples / 1e6, "M")
        yield Figure(SUITE, f"{name}: at {rate:.4g} images/s", days[name], "device-days")
    if len(days) < len(settings.stages):
        run.say("no price of the whole recipe: a stage of it has no rate")
        return
    total = sum(days.values())
    yield Figure(SUITE, "whole recipe", total, "device-days", target=settings.target)
    yield Figure(
        SUITE, f"whole recipe over the paper's {settings.paper_days} A100-days", total / settings.paper_days, ""
    )
    dollars = total * 24 * settings.dollars_per_device_hour
    yield Figure(SUITE, f"whole recipe at ${settings.dollars_per_device_hour:g} a device-hour", dollars, "dollars")
    yield Figure(
        SUITE, f"whole recipe over the paper's ${settings.paper_dollars}", dollars / settings.paper_dollars, ""
    )


def rates(figures: Iterable[Figure], contender: str, depth: int) -> dict[str, float]:
    """Images a second of ``contender`` by case of the suite ``train_step`` whose model has ``depth`` blocks."""
    said = {figure.name: figure.value for figure in figures if figure.suite == "train_step"}
    ending = f": {contender} images_per_second"
    cases = [name.removesuffix(ending) for name in said if name.endswith(ending)]
    return {
        case: rate for case in cases if said.get(f"{case}: {BLOCKS}") == depth and (rate := said[case + ending]) > 0
    }


def _recorded(settings: Settings, run: Run) -> Sequence[Figure]:
    """Figures of a record, or of this very run; ``ValueError`` for a file that is none."""
    if settings.record is None:
        return run.measured
    path = Path(settings.record).expanduser()
    try:
        return read_figures(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"suites.price.record: {path} is no record of tools/benchmark.py ({error})") from error
