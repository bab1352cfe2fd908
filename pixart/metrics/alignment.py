"""Does an image of coloured shapes show what its prompt names, all of it and no more? Judged from pixels alone.

The tasks and the all-or-nothing rule are GenEval's (arXiv 2310.11513, section 3); the detector is ``detection``.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pixart.data.embedded.captions import Target, Wanted
from pixart.data.embedded.combinations import PLACES, TASKS
from pixart.metrics.detection import Detection, detect, read

__all__ = ["Detection", "Report", "check", "detect", "score"]

ASTRAY = 0.12  # how far from its place an object may lie along each axis, half the way to the next place
DRAWS = 20_000  # of the posterior, for the interval


class Report(NamedTuple):
    """Shares of images that are wholly right, and what is right about all of them."""

    overall: float  # mean over tasks
    tasks: dict[str, float]
    interval: tuple[float, float]  # of ``overall``, 95 %
    diagnostics: dict[str, float]  # shares of images with the right number, colours, shapes, background

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON: 'overall', an entry per task, 'interval'."""
        return {"overall": self.overall, **self.tasks, "interval": list(self.interval)}


def _apart(found: Sequence[Detection], target: Target) -> bool:
    """Whether the first object lies to the left of, or above, the second: more so than along the other axis."""
    across, down = (b - a for a, b in zip(found[0].centre, found[1].centre, strict=True))
    return across > abs(down) if target.axis == "left" else down > abs(across)


def _in_place(found: Detection, place: str) -> bool:
    return all(abs(a - b) <= ASTRAY for a, b in zip(found.centre, PLACES[place], strict=True))


def _fits(found: Sequence[Detection], wanted: Sequence[Wanted], target: Target) -> bool:
    """Whether the objects, in this order, are the wanted ones and lie as they should."""
    named = all(w.shape == f.shape and f.colour is not None for w, f in zip(wanted, found, strict=True))
    coloured = all(w.colour in (None, f.colour) for w, f in zip(wanted, found, strict=True))
    placed = target.place is None or _in_place(found[0], target.place)
    return named and coloured and placed and (target.axis is None or _apart(found, target))


def _one_by_one(target: Target) -> list[Wanted]:
    return [wanted for wanted in target.objects for _ in range(wanted.number)]


def _judge(found: list[Detection], background: str | None, target: Target) -> bool:
    """Whether what was found is what was asked for."""
    wanted = _one_by_one(target)
    if len(found) != len(wanted) or background is None or target.background not in (None, background):
        return False
    return any(_fits(order, wanted, target) for order in permutations(found))


def _aspects(found: list[Detection], background: str | None, target: Target) -> dict[str, bool]:
    """What is right, looked at one by one."""
    wanted = _one_by_one(target)
    colours, shapes = Counter(w.colour for w in wanted if w.colour), Counter(w.shape for w in wanted)
    return {
        "number": len(found) == len(wanted),
        "colours": colours <= Counter(f.colour for f in found if f.colour),
        "shapes": shapes <= Counter(f.shape for f in found if f.shape),
        "background": background is not None and target.background in (None, background),
    }


def check(image: NDArray[np.uint8], target: Target) -> bool:
    """Whether an image (H, W, 3) is wholly right: every object, colour, place and background, and nothing beside."""
    return _judge(*read(image), target)


def _interval(rights: Sequence[int], totals: Sequence[int]) -> tuple[float, float]:
    """95 % for the mean of shares, by draws from each share's posterior under Jeffreys' prior (seeded)."""
    rng = np.random.Generator(np.random.Philox(key=0))
    right, total = np.array(rights), np.array(totals)
    means = rng.beta(right + 0.5, total - right + 0.5, size=(DRAWS, len(right))).mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def score(images: Sequence[NDArray[np.uint8]], targets: Sequence[Target]) -> Report:
    """The report on images (H, W, 3) of any sizes, each against its target; ``ValueError`` where they do not pair."""
    if len(images) != len(targets) or not targets:
        raise ValueError(
            f"alignment: {len(images)} images and {len(targets)} targets, give as many of each, at least 1"
        )
    readings = [read(image) for image in images]
    rights: dict[str, list[bool]] = {task: [] for task in TASKS}
    for reading, target in zip(readings, targets, strict=True):
        rights[target.task].append(_judge(*reading, target))
    asked = {task: right for task, right in rights.items() if right}
    tasks = {task: sum(right) / len(right) for task, right in asked.items()}
    aspects = [_aspects(*reading, target) for reading, target in zip(readings, targets, strict=True)]
    diagnostics = {name: sum(aspect[name] for aspect in aspects) / len(aspects) for name in aspects[0]}
    interval = _interval([sum(right) for right in asked.values()], [len(right) for right in asked.values()])
    overall = sum(tasks.values()) / len(tasks)
    return Report(overall, tasks, (min(interval[0], overall), max(interval[1], overall)), diagnostics)
