"""The words of the embedded data set, and which combinations of them training never shows.

The six tasks are those that GenEval measures (arXiv 2310.11513, section 3). Each has its own notion of a combination;
some are held out, and **no scene of any view or split contains a held-out combination of any task**, named or not:

======== =============================== ============================================ ==============================
task     a combination                   where a scene contains it                    held out: one of each group of
======== =============================== ============================================ ==============================
colours  (colour, shape)                 an object of it anywhere, in any scene       the shapes of a colour
single   (shape, place, background)      the only object has that shape, lies there   the backgrounds of (shape, place)
two      (shape, other shape)            both are in it                               all 15 pairs, of which four
counting (count, colour, shape)          so many alike objects make it up, count > 1  the counts of (colour, shape)
position (shape, left | above, shape)    its two objects lie so                       the four arrangements of a pair
binding  two (colour, shape), unlike in  both are in it                               the second colours of a first
         colour and in shape                                                          colour and a pair of shapes
======== =============================== ============================================ ==============================

Which one of a group is held out is decided by a digest of its name, never by a seed. A held-out combination is new in
itself only: the smaller combinations that it is made of are all seen.
"""

import hashlib
from collections.abc import Iterable
from functools import cache
from itertools import combinations, product
from typing import Any, Literal

Task = Literal["single", "two", "counting", "colours", "position", "binding"]
Axis = Literal["left", "above"]
TASKS: tuple[Task, ...] = ("single", "two", "counting", "colours", "position", "binding")
AXES: tuple[Axis, ...] = ("left", "above")

COLOURS: dict[str, tuple[int, int, int]] = {  # RGB; hues at least 25 degrees apart, so that shading keeps them apart
    "red": (215, 20, 30),
    "orange": (255, 120, 0),
    "yellow": (245, 235, 30),
    "green": (25, 165, 55),
    "cyan": (30, 205, 225),
    "blue": (40, 70, 235),
    "purple": (140, 40, 220),
    "pink": (255, 70, 180),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
BACKGROUNDS = ("black", "grey", "white")
COUNTS = (2, 3, 4)
PLACES: dict[str, tuple[float, float]] = {  # centre (x, y) as a share of width and height, y down
    "top left": (0.26, 0.26),
    "top": (0.5, 0.26),
    "top right": (0.74, 0.26),
    "left": (0.26, 0.5),
    "centre": (0.5, 0.5),
    "right": (0.74, 0.5),
    "bottom left": (0.26, 0.74),
    "bottom": (0.5, 0.74),
    "bottom right": (0.74, 0.74),
}
HELD_OUT_PAIRS = 4
SALT = "shapes 13"  # under it every word keeps most of its partners in every role

Combination = tuple[Any, ...]  # as in the table above


def _smallest(task: Task, group: Iterable[Combination], count: int) -> list[Combination]:
    """The ``count`` members of the smallest digests."""

    def digest(combination: Combination) -> bytes:
        return hashlib.blake2b(f"{SALT}:{task}:{combination}".encode(), digest_size=8).digest()

    return sorted(group, key=digest)[:count]


def _bindings() -> list[tuple[Combination, ...]]:
    """Of each seen pair of shapes and first colour, the pairs of seen coloured shapes; empty groups left out."""
    coloured = set(seen("colours"))
    groups = [
        tuple(((first, a), (second, b)) for second in COLOURS if second != first and (second, b) in coloured)
        for (a, b), first in product(seen("two"), COLOURS)
        if (first, a) in coloured
    ]
    return [group for group in groups if group]


@cache
def _groups(task: Task) -> tuple[tuple[Combination, ...], ...]:
    """Every combination of a task whose parts are seen, in the groups of which some are held out."""
    if task == "colours":
        return tuple(tuple((colour, shape) for shape in SHAPES) for colour in COLOURS)
    if task == "single":
        return tuple(tuple((shape, place, b) for b in BACKGROUNDS) for shape, place in product(SHAPES, PLACES))
    if task == "two":
        return (tuple(combinations(SHAPES, 2)),)
    if task == "counting":
        return tuple(tuple((count, *coloured) for count in COUNTS) for coloured in seen("colours"))
    if task == "position":
        both = (((a, b), (b, a)) for a, b in seen("two"))
        return tuple(tuple((first, axis, second) for (first, second), axis in product(two, AXES)) for two in both)
    return tuple(_bindings())


@cache
def held_out(task: Task) -> tuple[Combination, ...]:
    """The combinations of a task that no scene contains, in a fixed order."""
    count = HELD_OUT_PAIRS if task == "two" else 1
    return tuple(combination for group in _groups(task) for combination in _smallest(task, group, count))


@cache
def seen(task: Task) -> tuple[Combination, ...]:
    """The combinations of a task that scenes may contain, in a fixed order."""
    hidden = set(held_out(task))
    return tuple(combination for group in _groups(task) for combination in group if combination not in hidden)
