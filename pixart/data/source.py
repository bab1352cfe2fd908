"""What every data set offers: rows that can be read in any order, with their sizes known beforehand."""

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pixart.data.features import Features


class BadSample(ValueError):
    """One sample cannot be used: its bytes are not those that were indexed, or are no image.

    Training replaces it and goes on. Whatever concerns more than one sample, or may pass, is another error.
    """

    def __init__(self, key: str, reason: str):
        super().__init__(key, reason)  # both, so that it comes whole out of a worker
        self.key = key
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}"


class Sample(NamedTuple):
    """One image with all that is known about it."""

    key: str
    image: NDArray[np.uint8] | None  # (H, W, 3) RGB; None where only features are stored
    captions: tuple[str, ...]  # the preferred one first; empty where the source has labels only
    label: int | None  # class index, None where the source has captions only
    features: Features | None = None  # what the encoders made of it; views of bytes that are not to be written to


class Source(Protocol):
    """A data set of n rows. Reading a row is a pure function of the row, and safe in any process.

    Rows of one shard follow one another, in the order in which they lie in it.
    """

    @property
    def heights(self) -> NDArray[np.int32]:
        """(n,) pixels."""

    @property
    def widths(self) -> NDArray[np.int32]:
        """(n,) pixels."""

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """(n,) class indices; None for a captioned source."""

    @property
    def caption_counts(self) -> NDArray[np.integer] | None:
        """(n,) how many captions each has; None where each has at least one."""

    @property
    def shards(self) -> NDArray[np.int32] | None:
        """(n,) the file that a row lies in; None where there are no files."""

    @property
    def digests(self) -> NDArray[np.uint64] | None:
        """(n,) the first 8 bytes of the sha256 of each key; None where keys are made up."""

    @property
    def stamps(self) -> dict[str, Any] | None:
        """Who made the stored features, and how (see ``pixart.data.stamps``); None where there are none."""

    @property
    def fingerprint(self) -> str:
        """Equal for two sources exactly when their rows are."""

    def __len__(self) -> int:
        """The number of rows, n."""

    def key(self, row: int) -> str:
        """The name of a row, unique within the source, without reading its image."""

    def read(self, row: int) -> Sample:
        """The sample of a row; ``IndexError`` outside 0 .. n - 1, ``BadSample`` where it cannot be used."""

    @property
    def far(self) -> bool:
        """Whether some of its rows are fetched from far away, so that it is worth telling which come next."""

    def fetch_ahead(self, rows: NDArray[np.int64]) -> None:
        """Bring what ``rows`` need, in this order, within reach if it is far away, and nothing else any more."""
