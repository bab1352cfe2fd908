"""Several data sets as one source: the rows of the first, then those of the second, and so on."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixart.data.source import BadSample, Sample, Source

_NO_LABEL = -1
_SHORT = 150  # letters of two values that a sentence holds


class Mixture:
    """A ``Source`` over named sources. Row r of the i-th is row ``starts[i]`` + r, its key 'name/key'."""

    def __init__(self, sources: Mapping[str, Source]):
        """Join ``sources``; ``ValueError`` where some hold features that others do not, or made in another way."""
        self._names = tuple(sources)
        self._sources = tuple(sources.values())
        self.starts = np.cumsum([0, *map(len, self._sources)])  # (number of sources + 1,): the last is the end
        self.stamps = self._shared_stamps()
        words = [(name, source.fingerprint) for name, source in sources.items()]
        self.fingerprint = hashlib.sha256(json.dumps(words).encode()).hexdigest()

    @cached_property
    def heights(self) -> NDArray[np.int32]:
        """(n,) pixels."""
        return np.concatenate([source.heights for source in self._sources])

    @cached_property
    def widths(self) -> NDArray[np.int32]:
        """(n,) pixels."""
        return np.concatenate([source.widths for source in self._sources])

    @cached_property
    def labels(self) -> NDArray[np.int64] | None:
        """(n,) class indices, -1 in sources without any; None where no source has them."""
        if all(source.labels is None for source in self._sources):
            return None
        columns = [np.full(len(s), _NO_LABEL) if s.labels is None else s.labels for s in self._sources]
        return np.concatenate(columns).astype(np.int64, copy=False)

    @cached_property
    def caption_counts(self) -> NDArray[np.integer] | None:
        """(n,), 1 in sources that do not count them; None where no source does."""
        counts = [source.caption_counts for source in self._sources]
        if all(count is None for count in counts):
            return None
        both = zip(self._sources, counts, strict=True)
        return np.concatenate([np.ones(len(s), np.int16) if count is None else count for s, count in both])

    @cached_property
    def shards(self) -> NDArray[np.int32] | None:
        """(n,) counted on from one source to the next; a source without files is one shard."""
        if all(source.shards is None for source in self._sources):
            return None
        columns, first = [], 0
        for source in self._sources:
            shards = np.zeros(len(source), np.int32) if source.shards is None else source.shards
            columns.append(shards + np.int32(first))
            first += int(shards.max(initial=-1)) + 1
        return np.concatenate(columns)

    @cached_property
    def digests(self) -> NDArray[np.uint64] | None:
        """(n,) of the keys within their sources; None where a source has none."""
        digests = [source.digests for source in self._sources if source.digests is not None]
        return np.concatenate(digests) if len(digests) == len(self._sources) else None

    def __getstate__(self) -> dict[str, Any]:
        """For a worker that is not forked: columns are joined anew where they are needed, not copied."""
        columns = ("heights", "widths", "labels", "caption_counts", "shards", "digests")
        return {name: value for name, value in self.__dict__.items() if name not in columns}

    def __len__(self) -> int:
        return int(self.starts[-1])

    def key(self, row: int) -> str:
        """The name of a row: that of its source, a slash, and its key there."""
        place, inner = self._at(row)
        return f"{self._names[place]}/{self._sources[place].key(inner)}"

    def read(self, row: int) -> Sample:
        """The sample of a row, under its name here."""
        place, inner = self._at(row)
        name = self._names[place]
        try:
            sample = self._sources[place].read(inner)
        except BadSample as bad:
            raise BadSample(f"{name}/{bad.key}", bad.reason) from bad
        return sample._replace(key=f"{name}/{sample.key}")

    @property
    def far(self) -> bool:
        """Whether any of the sources is."""
        return any(source.far for source in self._sources)

    def fetch_ahead(self, rows: NDArray[np.int64]) -> None:
        """Let each source bring its rows within reach; one without any learns that none are wanted now."""
        for source, (start, end) in zip(self._sources, pairwise(self.starts), strict=True):
            source.fetch_ahead(rows[(rows >= start) & (rows < end)] - start)

    def _at(self, row: int) -> tuple[int, int]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        place = int(np.searchsorted(self.starts, row, side="right")) - 1
        return place, row - int(self.starts[place])

    def _shared_stamps(self) -> dict[str, Any] | None:
        first, *others = self._sources
        for name, other in zip(self._names[1:], others, strict=True):
            if other.stamps != first.stamps:
                raise ValueError(
                    f"data.mixture: the features of '{name}' are not those of '{self._names[0]}' "
                    f"({_difference(other.stamps, first.stamps)}): extract both with the same encoders, or use images "
                    "in both"
                )
        return first.stamps


def _difference(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> str:
    """What tells two stamps apart: names, and values that are short."""
    if one is None or other is None:
        return "one of them holds images"
    keys = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
    told = [f"{one.get(key)} and {other.get(key)}" for key in keys]
    return ", ".join(key if len(words) > _SHORT else f"{key} {words}" for key, words in zip(keys, told, strict=True))


def shared_out(total: int, weights: Sequence[float | None], sizes: Sequence[int]) -> list[int]:
    """``total`` as one whole number for each part, in proportion to ``weights``, or to ``sizes`` where they are None.

    Each is off by less than one, and they sum to ``total``.
    """
    shares = np.array([size if weight is None else weight for weight, size in zip(weights, sizes, strict=True)], float)
    bounds = np.floor(np.cumsum([0.0, *shares / shares.sum()]) * total + 0.5).astype(int)
    bounds[-1] = total  # the shares' sum may be off in its last digit
    return [int(count) for count in np.diff(bounds)]
