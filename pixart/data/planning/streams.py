"""Fixed sub-streams: which rows of one part and bucket a visit reads, so that each rank stays in its own shards.

The q-th of the c samples that a part gives to a visit belongs to stream q * S // c. Of every pass over the n rows, a
stream owns one contiguous range of a fixed order of the shards, as long as the number of samples it gives during the
pass: a rank, which has a contiguous run of a batch sorted by stream, therefore needs its part of the shards and no
other, however many ranks there are. Within its range a stream visits the shards in an order that is new in each pass,
a window of a few shards at a time, and shuffles each window. All of it is closed form: nothing is replayed.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pixart.data.planning.order import Order, Pieces
from pixart.data.planning.turns import Shares
from pixart.data.randomness import mixed, permuted

_WHOLE, _SHARDS, _PIECES, _WINDOWS = 1, 3, 4, 5  # what a hash is for
_PIECES_HELD = 1 << 22  # of the passes last read; 32 bytes each


class Drawn(NamedTuple):
    """What one part gives to one visit."""

    streams: NDArray[np.int64]  # (c,) ascending
    places: NDArray[np.int64]  # (c,) in the order of all rows


class Group:
    """The rows that one part has of one bucket, and how many of them the visits take."""

    def __init__(self, order: Order, *, part: int, bucket: int, name: NDArray[np.uint64], shares: Shares, share: int):
        """``name`` (1,) is a hash of the bucket and the part; ``share`` is the place of the part in ``shares``."""
        self._order, self._part, self._bucket = order, part, bucket
        self._shares, self._share = shares, share
        self.name = name
        self.start, self.count = order.start(part, bucket), int(order.counts[part, bucket])
        self.least = int(shares.least[share])  # samples a visit; some visits take one more

    def pieces(self) -> Pieces:
        """Its rows shard by shard."""
        return self._order.pieces(self._part, self._bucket)

    def before(self, visit: int) -> int:
        """The samples that the visits before ``visit`` take."""
        return self._shares.before(self._share, visit)

    def by_stream(self, samples: int, streams: int) -> NDArray[np.int64]:
        """Of the first ``samples`` samples, how many belong to each of the streams (S,): counts without counting."""
        visit = self._shares.visit_of(self._share, samples)
        before, after = self.before(visit), self.before(visit + 1)
        with_more = before - visit * self.least  # the visits so far that took one more
        below = (visit - with_more) * firsts(self.least, streams) + with_more * firsts(self.least + 1, streams)
        return np.diff(below + np.minimum(samples - before, firsts(after - before, streams)))


class Streams:
    """What any visit takes from a group, stream by stream and pass by pass."""

    def __init__(self, *, streams: int, window: int, seed: int):
        """``streams`` fixed sub-streams, each of which shuffles at most ``window`` pieces of shards together."""
        self._streams, self._window, self._seed = streams, window, seed
        self._passes: dict[tuple[int, int], Pass] = {}  # the last read last

    def drawn(self, group: Group, visit: int) -> Drawn:
        """What visit ``visit`` takes from ``group``."""
        before, after = group.before(visit), group.before(visit + 1)
        within = np.arange(after - before)  # (c,)
        streams = within * self._streams // max(len(within), 1)
        if group.least >= group.count:  # a visit reads the whole group anyway: it needs no locality
            passes, places = np.divmod(before + within, group.count)
            keys = mixed(group.name, _WHOLE, passes)
            return Drawn(streams, group.start + permuted(places, group.count, keys))
        places = np.empty_like(within)
        given = group.by_stream(before, self._streams) - firsts(len(within), self._streams)[:-1]
        for number in range(before // group.count, -(-after // group.count)):  # two at most
            first, last = (min(max(number * group.count - before + n, 0), len(within)) for n in (0, group.count))
            one = self._pass(group, number)
            places[first:last] = one.places((one.offsets + given)[streams[first:last]] + within[first:last])
        return Drawn(streams, places)

    def _pass(self, group: Group, number: int) -> "Pass":
        key = (group.start, number)
        found = self._passes.pop(key, None)  # and in again, as the last to be forgotten
        if found is None:
            found = Pass(group, number, streams=self._streams, window=self._window, seed=self._seed)
        self._passes[key] = found
        # A thread may plan ahead of this one: each step is one operation on the dictionary, and none expects another.
        held = list(self._passes.items())
        while len(held) > 1 and sum(len(one) for _, one in held) > _PIECES_HELD:
            self._passes.pop(held.pop(0)[0], None)
        return found


def firsts(count: int, streams: int) -> NDArray[np.int64]:
    """Of ``count`` samples of a visit, the first that belongs to each stream or a later one (S + 1,)."""
    return -(-np.arange(streams + 1) * count // streams)


class Pass:
    """One pass over a group: where each sample of each stream is found."""

    def __init__(self, group: Group, number: int, *, streams: int, window: int, seed: int):
        """Pass ``number``; every stream has a range as long as the number of samples it gives during the pass."""
        given, then = (group.by_stream(n * group.count, streams) for n in (number, number + 1))
        owned = then - given  # (S,)
        self.offsets = np.cumsum(owned) - then  # (S,) from a stream's count of its samples to the place in the pass
        stream, shards, places, sizes = _cut(group.pieces(), owned, seed)
        order = np.lexsort((mixed(seed, _PIECES, number, shards), stream))
        stream, sizes = stream[order], sizes[order]
        self._places = places[order]
        self._starts = np.cumsum(sizes) - sizes
        pieces = np.bincount(stream, minlength=streams)
        in_stream = np.arange(len(order)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        opens = np.flatnonzero(in_stream % window == 0)
        self._windows = self._starts[opens]
        self._sizes = np.diff(self._windows, append=group.count)
        self._keys = mixed(group.name, _WINDOWS, number, stream[opens], in_stream[opens] // window)

    def __len__(self) -> int:
        """The number of its pieces."""
        return len(self._places)

    def places(self, elements: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where samples ``elements`` of the pass, counted stream by stream, are in the order of all rows."""
        window = np.searchsorted(self._windows, elements, side="right") - 1
        start = self._windows[window]
        shuffled = start + permuted(elements - start, self._sizes[window], self._keys[window])
        piece = np.searchsorted(self._starts, shuffled, side="right") - 1
        return self._places[piece] + shuffled - self._starts[piece]


def _cut(
    pieces: Pieces, owned: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The pieces in their fixed order, cut where a stream begins: stream, shard, place and size of each.

    ``owned`` (S,) are the lengths of the streams' ranges, together as long as the pieces.
    """
    order = np.argsort(mixed(seed, _SHARDS, pieces.shards), kind="stable")
    shards, places, lengths = (column[order] for column in pieces)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    streams = np.flatnonzero(owned)
    begins = np.cumsum(owned[streams]) - owned[streams]  # ascending
    holding = np.searchsorted(ends, begins, side="right")  # the piece in which each begins
    inside = begins > starts[holding]
    cut = holding[inside]
    piece = np.repeat(np.arange(len(starts)), 1 + np.bincount(cut, minlength=len(starts)))
    cuts = np.insert(starts, cut + 1, begins[inside])
    stream = np.repeat(streams, np.diff(np.searchsorted(cuts, begins), append=len(cuts)))
    return stream, shards[piece], places[piece] + cuts - starts[piece], np.diff(cuts, append=ends[-1])
