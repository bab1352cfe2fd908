"""A source of numbered images for the tests of the data path."""

from collections.abc import Sequence

import numpy as np
import pytest

from pixart.data.source import Sample


class Numbered:
    """Row i is a flat image of colour i with captions "row i" and "again i" and label i % 5; sizes are in turn."""

    fingerprint = "numbered"
    shards = digests = stamps = caption_counts = None

    def __init__(self, count: int, sizes: Sequence[tuple[int, int]]):
        turns = np.array([sizes[i % len(sizes)] for i in range(count)], dtype=np.int32)
        self.heights, self.widths = turns[:, 0], turns[:, 1]
        self.labels = np.arange(count, dtype=np.int64) % 5

    def __len__(self) -> int:
        return len(self.heights)

    def key(self, row: int) -> str:
        return f"{row:04d}"

    @property
    def far(self) -> bool:
        return False

    def fetch_ahead(self, rows: np.ndarray) -> None: ...

    def read(self, row: int) -> Sample:
        if not 0 <= row < len(self):
            raise IndexError(row)
        image = np.full((self.heights[row], self.widths[row], 3), row % 256, dtype=np.uint8)
        return Sample(self.key(row), image, (f"row {row}", f"again {row}"), int(self.labels[row]))


@pytest.fixture
def numbered() -> type[Numbered]:
    return Numbered
