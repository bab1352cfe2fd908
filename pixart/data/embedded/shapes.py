"""The embedded data set: scenes of coloured shapes, each drawn anew from its index whenever it is read.

Three views serve three stages: *labelled* has one object and its class (a seen pair of colour and shape), *captioned*
has the scenes of all six tasks, flat, with captions; *aesthetic* has the same, shaded, in the sizes asked for.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pixart.data.embedded.captions import (
    Prompt,
    Target,
    Wanted,
    captions,
    dense_caption,
    label_target,
    prompts,
    seen_prompts,
    sparse_caption,
)
from pixart.data.embedded.combinations import COLOURS, SHAPES, TASKS, Axis, Task, seen
from pixart.data.embedded.render import render
from pixart.data.embedded.scenes import Lots, Scene, draw_labelled, draw_scene
from pixart.data.source import Sample

__all__ = [
    "COLOURS",
    "SHAPES",
    "TASKS",
    "Axis",
    "Prompt",
    "Shapes",
    "Target",
    "Task",
    "Wanted",
    "captions",
    "label_target",
    "prompts",
    "seen_prompts",
]

View = Literal["labelled", "captioned", "aesthetic"]
STREAMS = {"train": 0, "validation": 1}  # of the random numbers
VERSION = 1  # raise it when the same row would look or read differently


class Shapes:
    """A ``Source`` of ``num_samples`` scenes; a row is a pure function of the row, the split and the seed."""

    shards = digests = stamps = None

    def __init__(
        self,
        view: View,
        split: Literal["train", "validation"],
        *,
        num_samples: int,
        resolution: int,
        sizes: Sequence[tuple[int, int]] | None,
        density: Literal["dense", "sparse"],
        seed: int,
    ):
        """Rows go through ``sizes``, (height, width) in pixels, in turn; without them each is ``resolution`` square.

        With ``density="dense"`` a row has two captions, a dense one and a sparse one; with "sparse" the latter only.
        """
        if num_samples < 1 or seed < 0:
            raise ValueError(f"Shapes: num_samples={num_samples} must be at least 1 and seed={seed} at least 0")
        self.view, self.split, self.density, self.seed = view, split, density, seed
        self.num_classes = len(seen("colours"))
        every_size = np.array(sizes or [(resolution, resolution)], np.int32)
        rows = np.arange(num_samples)
        self.heights, self.widths = every_size[rows % len(every_size)].T.copy()
        self.labels: NDArray[np.int64] | None = rows % self.num_classes if view == "labelled" else None
        self.caption_counts: NDArray[np.integer] | None = None if self.labels is None else np.zeros(len(rows), np.int16)
        words = (VERSION, view, split, num_samples, every_size.tolist(), density, seed)
        self.fingerprint = hashlib.blake2b(repr(words).encode(), digest_size=16).hexdigest()

    def __len__(self) -> int:
        return len(self.heights)

    def key(self, row: int) -> str:
        """The name of a row, such as 'captioned-train-00000012'."""
        return f"{self.view}-{self.split}-{row:08d}"

    def scene(self, row: int) -> Scene:
        """What the image of a row shows; ``IndexError`` outside 0 .. n - 1."""
        return self._compose(row)[0]

    def read(self, row: int) -> Sample:
        """The sample of a row, drawn anew; ``IndexError`` outside 0 .. n - 1."""
        scene, lots = self._compose(row)
        image = render(scene, int(self.heights[row]), int(self.widths[row]), shaded=self.view == "aesthetic")
        if self.labels is not None:
            return Sample(self.key(row), image, (), int(self.labels[row]))
        dense, sparse = dense_caption(scene, lots), sparse_caption(scene, lots)
        return Sample(self.key(row), image, (dense, sparse) if self.density == "dense" else (sparse,), None)

    @property
    def far(self) -> bool:
        """Never."""
        return False

    def fetch_ahead(self, rows: NDArray[np.int64]) -> None:
        """Nothing to do: rows come from nowhere."""

    def _compose(self, row: int) -> tuple[Scene, Lots]:
        """The scene of a row, and the lots that are left for its captions."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        lots = Lots(self.seed, row, stream=STREAMS[self.split])
        return (draw_scene(lots) if self.labels is None else draw_labelled(int(self.labels[row]), lots)), lots
