"""What every data set offers: rows that can be read in any order, with their sizes known beforehand."""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Sample(NamedTuple):
    """One image with all that is known about it."""

    key: str
    image: NDArray[np.uint8]  # (H, W, 3) RGB
    captions: tuple[str, ...]  # the preferred one first; empty where the source has labels only
    label: int | None  # class index, None where the source has captions only


class Source(Protocol):
    """A data set of n rows. Reading a row is a pure function of the row, and safe in any process."""

    heights: NDArray[np.int32]  # (n,) pixels
    widths: NDArray[np.int32]  # (n,) pixels
    labels: NDArray[np.int64] | None  # (n,) class indices, None for a captioned source
    fingerprint: str  # equal for two sources exactly when their rows are

    def __len__(self) -> int:
        """The number of rows, n."""

    def key(self, row: int) -> str:
        """The name of a row, unique within the source, without reading its image."""

    def read(self, row: int) -> Sample:
        """The sample of a row; ``IndexError`` outside 0 .. n - 1."""
