"""What is said about scenes: targets, the sentences that name them, and the prompts that test a model.

A *dense* caption names what its task is about, or all there is, and the background. A *sparse* one is what people type
under a picture: short, partial, without background. Both use the same words.
"""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np

from pixart.data.embedded.combinations import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    SHAPES,
    TASKS,
    Axis,
    Combination,
    Task,
    held_out,
    seen,
)
from pixart.data.embedded.scenes import Lots, Scene, draw_scene

SENTENCES = ("{0} on a {1} background", "a picture of {0} on a {1} background", "a {1} background with {0}")
RELATIONS: dict[Axis, tuple[str, str]] = {"left": ("to the left of", "to the right of"), "above": ("above", "below")}
WHERE = {
    "top left": "in the top left corner",
    "top": "at the top",
    "top right": "in the top right corner",
    "left": "on the left",
    "centre": "in the centre",
    "right": "on the right",
    "bottom left": "in the bottom left corner",
    "bottom": "at the bottom",
    "bottom right": "in the bottom right corner",
}
NUMBERS = dict(zip(COUNTS, ("two", "three", "four"), strict=True))
PLURALS = {shape: "crosses" if shape == "cross" else f"{shape}s" for shape in SHAPES}
WORDS = frozenset(
    " ".join(
        (
            *("a an and on picture of background with", *COLOURS, *SHAPES, *PLURALS.values(), *BACKGROUNDS),
            *(*NUMBERS.values(), *WHERE.values(), *RELATIONS["left"], *RELATIONS["above"]),
        )
    ).split()
)
CAPTION_STREAM = 2  # streams 0 and 1 are the splits


class Wanted(NamedTuple):
    """So many alike objects; a colour that is not named is ``None``, and free."""

    number: int
    colour: str | None
    shape: str


class Target(NamedTuple):
    """What a prompt names: an image must show all of it, and no further object."""

    task: Task
    objects: tuple[Wanted, ...]
    axis: Axis | None = None  # "left": the first object lies to the left of the second; "above" likewise
    place: str | None = None
    background: str | None = None


class Prompt(NamedTuple):
    """A sentence and what it asks for."""

    text: str
    target: Target


def noun(colour: str | None, shape: str, count: int | None = 1) -> str:
    """'a red circle', 'two red circles', and for ``count=None`` 'red circles'."""
    words = [] if colour is None else [colour]
    if count == 1:
        article = "an" if (*words, shape)[0][0] in "aeiou" else "a"
        return " ".join((article, *words, shape))
    number = [] if count is None else [NUMBERS[count]]
    return " ".join((*number, *words, PLURALS[shape]))


def sentence(target: Target, *, form: int, swapped: bool) -> str:
    """A target in words, in one of ``SENTENCES``; ``swapped`` names the second object first."""
    nouns = [noun(wanted.colour, wanted.shape, wanted.number) for wanted in target.objects]
    link = "and" if target.axis is None else RELATIONS[target.axis][swapped]
    subject = f" {link} ".join(reversed(nouns) if swapped else nouns)
    if target.place is not None:
        subject = f"{subject} {WHERE[target.place]}"
    return SENTENCES[form].format(subject, target.background)


def target_of(scene: Scene, *, full: bool) -> Target:
    """What a dense caption of the scene names: all of it (``full``), or what the scene's task is about."""
    first, *others = scene.objects
    task, coloured = scene.task, full or scene.task in ("colours", "counting", "binding")
    if task == "counting":
        return Target(task, (Wanted(len(scene.objects), first.colour, first.shape),), background=scene.background)
    objects = tuple(Wanted(1, o.colour if coloured else None, o.shape) for o in (first, *others))
    axis = scene.axis if full or task == "position" else None
    place = scene.place if full or task == "single" else None
    return Target(task, objects, axis, place, scene.background)


def dense_caption(scene: Scene, lots: Lots) -> str:
    """A sentence that names what the scene's task is about, or as often all there is."""
    target = target_of(scene, full=lots.one_of((False, True)))
    return sentence(target, form=lots.one_of(range(len(SENTENCES))), swapped=lots.one_of((False, True)))


def sparse_caption(scene: Scene, lots: Lots) -> str:
    """A few words that leave out the background, the places, the count, and now and then a colour or an object."""
    first, *others = scene.objects
    if len(scene.objects) > 1 and scene.axis is None:
        return noun(lots.one_of((None, first.colour)), first.shape, None)
    named = [first, *others] if lots.one_of((False, True)) else [lots.one_of(scene.objects)]
    return " and ".join(noun(lots.one_of((None, o.colour)), o.shape) for o in named)


def captions(n: int, seed: int) -> Iterator[str]:
    """``n`` captions of training scenes, three dense ones to a sparse one: text to learn the language from."""
    for index in range(n):
        lots = Lots(seed, index, stream=CAPTION_STREAM)
        scene = draw_scene(lots)
        yield sparse_caption(scene, lots) if index % 4 == 3 else dense_caption(scene, lots)


def label_target(label: int) -> Target:
    """What an image of a class must show: one object, of the class's colour and shape; ``ValueError`` for no class."""
    classes = seen("colours")
    if not 0 <= label < len(classes):
        raise ValueError(f"label {label} is none of the {len(classes)} classes of the embedded data set")
    colour, shape = classes[label]
    return Target("colours", (Wanted(1, colour, shape),))


def _target(task: Task, combination: Combination, background: str) -> Target:
    """The target that names a combination of a task and no more."""
    if task == "single":
        shape, place, its_background = combination
        return Target(task, (Wanted(1, None, shape),), place=place, background=its_background)
    if task == "counting":
        return Target(task, (Wanted(*combination),), background=background)
    if task == "position":
        first, axis, second = combination
        return Target(task, (Wanted(1, None, first), Wanted(1, None, second)), axis, background=background)
    if task == "two":
        return Target(task, tuple(Wanted(1, None, shape) for shape in combination), background=background)
    coloured = combination if task == "binding" else (combination,)
    return Target(task, tuple(Wanted(1, *pair) for pair in coloured), background=background)


def _wordings(task: Task, combination: Combination) -> list[Prompt]:
    """Every prompt that names the combination, all distinct."""
    targets = dict.fromkeys(_target(task, combination, background) for background in BACKGROUNDS)
    orders = (False, True) if len(next(iter(targets)).objects) == 2 else (False,)
    return [
        Prompt(sentence(target, form=form, swapped=swapped), target)
        for target, form, swapped in product(targets, range(len(SENTENCES)), orders)
    ]


def _spread(task: Task, pool: tuple[Combination, ...], n: int, seed: int) -> list[Prompt]:
    """``n`` distinct prompts that name the combinations of the pool as evenly as may be."""
    rng = np.random.Generator(np.random.Philox(key=np.array((seed, TASKS.index(task)), np.uint64)))
    wordings = [_wordings(task, pool[i]) for i in rng.permutation(len(pool))]
    for each in wordings:
        rng.shuffle(each)
    rounds = (each[turn] for turn in range(max(map(len, wordings))) for each in wordings if turn < len(each))
    prompts = list(rounds)
    if n > len(prompts):
        raise ValueError(f"{n} prompts of the task '{task}' were asked for and there are {len(prompts)}: ask for fewer")
    return prompts[:n]


def prompts(task: Task, n: int, seed: int) -> list[Prompt]:
    """``n`` distinct prompts, each naming a combination that training never shows; the same for the same seed."""
    return _spread(task, held_out(task), n, seed)


def seen_prompts(task: Task, n: int, seed: int) -> list[Prompt]:
    """As ``prompts``, but of combinations that training shows: for comparison."""
    return _spread(task, seen(task), n, seed)
