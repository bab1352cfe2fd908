"""Drawing scenes: every shape is a signed distance, negative inside, which anti-aliases and shades by itself."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixart.data.embedded.combinations import COLOURS
from pixart.data.embedded.scenes import Object, Scene

Field = NDArray[np.floating[Any]]
BACKGROUND = {"black": 22.0, "grey": 128.0, "white": 236.0}  # neutral, so that no background has a hue
REACH = 1.6  # half the side of the patch that is drawn for an object and its shadow, in radii


def _box(x: Field, y: Field, width: float, height: float) -> Field:
    return np.maximum(np.abs(x) - width, np.abs(y) - height)


def _triangle(x: Field, y: Field) -> Field:
    """Apex (0, -0.95), base from (-1, 0.8) to (1, 0.8)."""
    return np.maximum(y - 0.8, (1.75 * np.abs(x) - (y + 0.95)) / np.hypot(1.0, 1.75))


DISTANCES: dict[str, Callable[[Field, Field], Field]] = {  # (x, y) from the centre in radii, y down -> radii
    "circle": lambda x, y: np.hypot(x, y) - 0.97,
    "square": lambda x, y: _box(x, y, 0.86, 0.86),
    "triangle": _triangle,
    "diamond": lambda x, y: (np.abs(x) + np.abs(y) - 1.1) * 0.7071,
    "cross": lambda x, y: np.minimum(_box(x, y, 1.0, 0.34), _box(x, y, 0.34, 1.0)),
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.77) - 0.24,
}


def _smooth(x: Field) -> Field:
    """From 0 to 1 as x goes from 0 to 1, level at both ends."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _backdrop(background: str, height: int, width: int, shaded: bool) -> Field:
    """A plain colour, or one lit from above with darker corners; (H, W, 3) in 0 .. 255."""
    level = BACKGROUND[background]
    canvas = np.full((height, width, 3), level, np.float32)
    if shaded:
        y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
        light = 1 - 0.07 * y - 0.09 * (x * x + y * y)  # (H, W)
        canvas *= light[..., None]
        canvas += 10 * light[..., None] * (background == "black")
    return canvas


def _shade(colour: Field, distance: Field, x: Field, y: Field) -> Field:
    """A softly domed surface lit from the upper left; (h, w, 3)."""
    light = 0.94 - 0.10 * (x + y) - 0.16 * _smooth(1 + distance / 0.28)  # (h, w): a darker rim
    shine = 0.20 * _smooth(1 - np.hypot(x + 0.35, y + 0.4) / 0.55)
    lit = colour * np.minimum(light, 1)[..., None]
    return lit + (255 - lit) * shine[..., None]


def _draw(canvas: Field, thing: Object, shaded: bool) -> None:
    """Lay one object over the canvas (H, W, 3), in place; only its neighbourhood is touched."""
    height, width, _ = canvas.shape
    radius = thing.radius * min(height, width)  # in pixels
    column, row = thing.x * width - 0.5, thing.y * height - 0.5  # pixel centres lie on whole numbers
    reach = REACH * radius
    top, bottom = max(0, int(row - reach)), min(height, int(row + reach) + 2)
    left, right = max(0, int(column - reach)), min(width, int(column + reach) + 2)
    y = ((np.arange(top, bottom, dtype=np.float32) - row) / radius)[:, None]
    x = ((np.arange(left, right, dtype=np.float32) - column) / radius)[None, :]
    patch, field = canvas[top:bottom, left:right], DISTANCES[thing.shape]
    distance = field(x, y)  # (h, w) in radii
    cover = np.clip(0.5 - distance * radius, 0, 1)[..., None]  # share of each pixel inside
    colour: Field = np.array(COLOURS[thing.colour], np.float32)
    if shaded:
        patch *= 1 - 0.45 * _smooth(0.5 - field(x - 0.12, y - 0.2) / 0.6)[..., None]
        patch += cover * (_shade(colour, distance, x, y) - patch)
    else:
        patch += cover * (colour - patch)


def render(scene: Scene, height: int, width: int, *, shaded: bool) -> NDArray[np.uint8]:
    """The picture of a scene, (height, width, 3) RGB; flat colours, or lit and with shadows."""
    canvas = _backdrop(scene.background, height, width, shaded)
    for thing in scene.objects:
        _draw(canvas, thing, shaded)
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8)
