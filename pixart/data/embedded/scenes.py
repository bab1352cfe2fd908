"""Scenes of coloured shapes: what lies where. Lots are drawn for combinations that training may show, and no others."""

from collections.abc import Sequence
from functools import cache
from itertools import combinations, product
from typing import NamedTuple, TypeVar

import numpy as np

from pixart.data.embedded.combinations import AXES, BACKGROUNDS, PLACES, SHAPES, TASKS, Axis, Combination, Task, seen

JITTER = 0.02  # of a centre, along each axis
QUARTERS = ((0.26, 0.26), (0.74, 0.26), (0.26, 0.74), (0.74, 0.74))  # where counted objects lie, (x, y)
NUMBERS = 32  # random numbers that a scene with its captions may spend

Item = TypeVar("Item")


class Object(NamedTuple):
    """One shape: centre as a share of width and height (y down), radius as a share of the shorter side."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float


class Scene(NamedTuple):
    """What an image shows. Of two unlike objects the left or upper one comes first."""

    task: Task
    objects: tuple[Object, ...]
    background: str
    place: str | None = None  # of a lone object
    axis: Axis | None = None  # along which two unlike objects lie


class Lots:
    """Uniform numbers in [0, 1) from a counter-based generator (Philox), drawn at once and spent one by one."""

    def __init__(self, seed: int, index: int, *, stream: int):
        """``seed`` and ``index`` (0 .. 2**64 - 1) are the key; streams (0 .. 2**32 - 1) share no number."""
        bits = np.random.Philox(key=np.array((seed, index), np.uint64), counter=np.array((0, 0, 0, stream), np.uint64))
        self._numbers = iter(np.random.Generator(bits).random(NUMBERS).tolist())

    def between(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * float(next(self._numbers))

    def one_of(self, items: Sequence[Item]) -> Item:
        """One of the items, each as likely."""
        return items[int(next(self._numbers) * len(items))]

    def near(self, centre: float, distance: float) -> float:
        """A number within ``distance`` of ``centre``."""
        return self.between(centre - distance, centre + distance)


@cache
def _lone() -> tuple[Combination, ...]:
    """(colour, shape, place, background) of every scene of one object."""
    allowed = set(seen("single"))
    every = product(seen("colours"), PLACES, BACKGROUNDS)
    return tuple((colour, shape, place, b) for (colour, shape), place, b in every if (shape, place, b) in allowed)


@cache
def _lone_of(label: int) -> tuple[Combination, ...]:
    """Those of one class."""
    return tuple(lone for lone in _lone() if lone[:2] == seen("colours")[label])


@cache
def _unlike() -> tuple[Combination, ...]:
    """((colour, shape), axis, (colour, shape)) of every scene of two unlike objects."""
    allowed = set(seen("position"))
    both = [*seen("binding"), *((b, a) for a, b in seen("binding"))]
    return tuple((a, axis, b) for (a, b), axis in product(both, AXES) if (a[1], axis, b[1]) in allowed)


def _draw_lone(task: Task, combination: Combination, lots: Lots) -> Scene:
    colour, shape, place, background = combination
    x, y = (lots.near(centre, JITTER) for centre in PLACES[place])
    return Scene(task, (Object(colour, shape, x, y, lots.between(0.17, 0.21)),), background, place=place)


def _draw_alike(combination: Combination, lots: Lots) -> Scene:
    count, colour, shape = combination
    background, radius = lots.one_of(BACKGROUNDS), lots.between(0.14, 0.18)
    quarters = lots.one_of(tuple(combinations(QUARTERS, count)))
    objects = (Object(colour, shape, lots.near(x, JITTER), lots.near(y, JITTER), radius) for x, y in quarters)
    return Scene("counting", tuple(objects), background)


def _draw_unlike(task: Task, combination: Combination, lots: Lots) -> Scene:
    """Two objects apart along the axis; across it both lie near one line."""
    first, axis, second = combination
    background, line = lots.one_of(BACKGROUNDS), lots.between(0.38, 0.62)
    objects = []
    for (colour, shape), along in ((first, 0.26), (second, 0.74)):
        place = lots.near(along, JITTER), lots.near(line, 2 * JITTER)
        x, y = place if axis == "left" else place[::-1]
        objects.append(Object(colour, shape, x, y, lots.between(0.155, 0.19)))
    return Scene(task, tuple(objects), background, axis=axis)


def draw_scene(lots: Lots) -> Scene:
    """A scene for training: tasks are equally likely, and combinations within a task."""
    task = lots.one_of(TASKS)
    if task in ("single", "colours"):
        return _draw_lone(task, lots.one_of(_lone()), lots)
    if task == "counting":
        return _draw_alike(lots.one_of(seen("counting")), lots)
    return _draw_unlike(task, lots.one_of(_unlike()), lots)


def draw_labelled(label: int, lots: Lots) -> Scene:
    """A scene of one object of a class, which is an index of ``seen("colours")``."""
    return _draw_lone("colours", lots.one_of(_lone_of(label)), lots)


def contained(scene: Scene) -> set[tuple[Task, Combination]]:
    """Every combination of every task that a scene contains, whether its captions say so or not."""
    first, *others = scene.objects
    found: set[tuple[Task, Combination]] = {("colours", (o.colour, o.shape)) for o in scene.objects}
    if not others:
        return found | {("single", (first.shape, scene.place, scene.background))}
    if len({(o.colour, o.shape) for o in scene.objects}) == 1:
        return found | {("counting", (len(scene.objects), first.colour, first.shape))}
    a, b = sorted(scene.objects, key=lambda o: SHAPES.index(o.shape))
    return found | {
        ("two", (a.shape, b.shape)),
        ("position", (first.shape, scene.axis, others[0].shape)),
        ("binding", ((a.colour, a.shape), (b.colour, b.shape))),
    }
