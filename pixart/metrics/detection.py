"""What coloured shapes does an image show? Read from its pixels alone.

Backgrounds are neutral and every colour has its own hue, so chroma (the largest minus the smallest channel) tells
objects from background and hue tells colours apart, under shading and anti-aliasing too: mixing with grey keeps the
hue and scales the chroma. A shape is the one that overlaps best when laid over the object at its centre and area.
Nothing here has seen the renderer or a training image.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pixart.data.embedded.combinations import COLOURS

Field = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

FAINTEST = 0.35  # of its colour's chroma: what a pixel of an object has at least
VIVID = 0.6  # of its colour's chroma: what an object has at least, or its colour is none
OFF_HUE = 0.22  # radians from its colour's hue (12.6 degrees), at most, or its colour is none
SPECK = 0.005  # share of the image: anything smaller is overlooked
PURE = 0.85  # share of an object's pixels in one colour, or it is taken apart by colours
OVERLAP = {  # of an object with its shape (intersection over union), at least, or its shape is none
    "circle": 0.78,
    "square": 0.78,
    "triangle": 0.78,
    "diamond": 0.78,
    "cross": 0.78,
    "ring": 0.7,  # thin all over, so that a blur costs it most
}
SAMPLES = 5  # along each side of a pixel, to cover it with a shape
LEVELS = {"black": (0, 75), "grey": (75, 182), "white": (182, 256)}  # of a background's median
STRAY = 64  # levels from the median: what a pixel of the background stays within ...
UNTIDY = 0.02  # ... all but this share of those that lie ...
FAR = 0.12  # ... so far from objects and their shadows, as a share of the shorter side


class Detection(NamedTuple):
    """One object found; a colour or shape that is none of the known ones is ``None``."""

    colour: str | None
    shape: str | None
    centre: tuple[float, float]  # (x, y) as a share of width and height, y down
    area: float  # share of the image


def _hue(rgb: Field) -> Field:
    """Where a colour lies in the plane across the grey axis, its angle being the hue; (..., 3) -> (..., 2)."""
    return rgb @ _ACROSS_GREY


def _chroma(rgb: Field) -> Field:
    """The largest minus the smallest channel; (..., 3) -> (...)."""
    r, g, b = np.moveaxis(rgb, -1, 0)
    return np.maximum(np.maximum(r, g), b) - np.minimum(np.minimum(r, g), b)


_ACROSS_GREY = np.array(((2, 0), (-1, np.sqrt(3)), (-1, -np.sqrt(3))))  # (3, 2)
_NAMES = tuple(COLOURS)
_RGB = np.array(list(COLOURS.values()), np.float64)
_CHROMAS = _chroma(_RGB)  # (8,)
_HUES = _hue(_RGB) / np.linalg.norm(_hue(_RGB), axis=-1, keepdims=True)  # (8, 2) of length 1


def _nearest_colour(rgb: Field) -> NDArray[np.intp]:
    """The index of the colour nearest in hue; (..., 3) -> (...)."""
    return (_hue(rgb) @ _HUES.T).argmax(-1)


def _components(classes: NDArray[np.intp], smallest: float) -> Iterator[Mask]:
    """Masks (H, W) of the regions of touching (4 neighbours) pixels of one class >= 0, of at least some pixels.

    Every pixel starts with its own number, takes the least of its like neighbours, and follows it one link on.
    """
    labels, before = np.arange(classes.size).reshape(classes.shape), None
    down, across = classes[1:] == classes[:-1], classes[:, 1:] == classes[:, :-1]
    while before is None or (labels != before).any():
        before = labels.copy()
        sides = ((labels[:-1], labels[1:], down), (labels[:, :-1], labels[:, 1:], across))
        for low, high, alike in sides:
            least = np.minimum(low, high)
            np.minimum(low, least, out=low, where=alike)
            np.minimum(high, least, out=high, where=alike)
        labels = labels.ravel()[labels]
    numbers, counts = np.unique(labels[classes >= 0], return_counts=True)
    yield from (labels == number for number in numbers[counts >= smallest])


def _objects(rgb: Field) -> Iterator[Mask]:
    """Masks of the objects: touching coloured pixels, parted by colour where they are of several."""
    nearest = _nearest_colour(rgb)
    coloured = _chroma(rgb) > FAINTEST * _CHROMAS[nearest]
    smallest = SPECK * coloured.size
    for mask in _components(np.where(coloured, 0, -1), smallest):
        if np.bincount(nearest[mask]).max() >= PURE * mask.sum():
            yield mask
        else:
            yield from _components(np.where(mask, nearest, -1), smallest)


def _grown(mask: Mask) -> Mask:
    """The mask and its four neighbours."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown


def _inside(shape: str, x: Field, y: Field) -> Mask:
    """Points of a shape of area 1 whose centroid is the origin; y down."""
    across, up = np.abs(x), np.abs(y)
    if shape == "circle":
        return x * x + y * y <= 1 / np.pi
    if shape == "square":
        return np.maximum(across, up) <= 0.5
    if shape == "diamond":
        return across + up <= np.sqrt(0.5)
    if shape == "triangle":  # equilateral: side 2 / 3**0.25, apex two thirds of its height above the centroid
        height = 3**0.25
        return (y <= height / 3) & (np.sqrt(3) * across <= y + 2 * height / 3)
    if shape == "cross":  # five equal squares
        side = np.sqrt(0.2)
        return (np.maximum(across, up) <= 1.5 * side) & (np.minimum(across, up) <= side / 2)
    outer = 4 / (3 * np.pi)  # a ring whose hole is half as wide as itself
    return (x * x + y * y <= outer) & (x * x + y * y >= outer / 4)


def _shape(cover: Field) -> str | None:
    """The shape that overlaps an object best, by the share (h, w) of each pixel that the object covers."""
    rows, columns = np.indices(cover.shape)
    area = cover.sum()
    offsets = (np.arange(SAMPLES) + 0.5) / SAMPLES - 0.5
    y = (np.add.outer(np.arange(cover.shape[0]), offsets) - (rows * cover).sum() / area) / np.sqrt(area)
    x = (np.add.outer(np.arange(cover.shape[1]), offsets) - (columns * cover).sum() / area) / np.sqrt(area)

    def overlap(shape: str) -> float:
        points = _inside(shape, x[None, None], y[:, :, None, None])  # (h, s, w, s)
        template = points.mean((1, 3))
        return float(np.minimum(cover, template).sum() / np.maximum(cover, template).sum())

    overlaps = {shape: overlap(shape) for shape in OVERLAP}
    best = max(overlaps, key=overlaps.__getitem__)
    return best if overlaps[best] >= OVERLAP[best] else None


def _describe(rgb: Field, mask: Mask) -> Detection:
    """Name one object's colour and shape."""
    chroma = _chroma(rgb)
    weights = np.where(mask, chroma, 0)
    blend = (rgb * weights[..., None]).sum((0, 1))  # (3,)
    colour = int(_nearest_colour(blend))
    core, vivid = np.quantile(chroma[mask], (0.5, 0.75))  # thin shapes are half edge, and edges are pale
    cover = np.where(_grown(mask), np.minimum(1, chroma / core), 0)  # (H, W)
    rows, columns = (np.flatnonzero(cover.any(axis)) for axis in (1, 0))
    height, width = mask.shape
    x, y = ((cover.sum(axis) @ (np.arange(n) + 0.5)) / cover.sum() / n for axis, n in ((0, width), (1, height)))
    # Two pixels of nothing all around, so that a shape may reach beyond the object.
    window = np.pad(cover[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 2)
    pure = _hue(blend) @ _HUES[colour] >= np.cos(OFF_HUE) * np.linalg.norm(_hue(blend))
    name = _NAMES[colour] if pure and vivid >= VIVID * _CHROMAS[colour] else None
    return Detection(name, _shape(window), (float(x), float(y)), float(cover.sum() / cover.size))


def _backdrop(rgb: Field, objects: Mask) -> str | None:
    """The name of a neutral, plain background; ``None`` where there is none, or smears, ghosts or grey things on it."""
    for _ in range(int(np.ceil(FAR * min(objects.shape)))):
        objects = _grown(objects)
    if objects.all():
        return None
    far = rgb[~objects]  # (n, 3)
    middle = np.median(far, 0)
    stray = (np.abs(far - middle).max(-1) > STRAY).mean()
    if stray > UNTIDY or np.ptp(middle) > STRAY / 2:
        return None
    return next(name for name, (low, high) in LEVELS.items() if low <= middle.mean() < high)


def detect(image: NDArray[np.uint8]) -> list[Detection]:
    """Every object in an image (H, W, 3)."""
    return read(image)[0]


def read(image: NDArray[np.uint8]) -> tuple[list[Detection], str | None]:
    """Every object in an image (H, W, 3), and its background: ``None`` unless that is plain."""
    rgb = image.astype(np.float64)
    masks = list(_objects(rgb))
    everything = np.any(masks, 0) if masks else np.zeros(rgb.shape[:2], np.bool_)
    return [_describe(rgb, mask) for mask in masks], _backdrop(rgb, everything)
