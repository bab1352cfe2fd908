"""Whose turn it is: the bucket of step k, and what each part of a mixture gives to it, in closed form."""

from math import fsum

import numpy as np
from numpy.typing import NDArray

from pixart.data.randomness import mixed

PERIOD = 4096  # visits after which every part has given exactly its share, in steps of 1 / PERIOD of a sample a visit

_TURNS = 2  # what the hash is for
_JITTER_BITS = 20  # visit + jitter stays exact in float64 up to 2**33 visits of one bucket


class Turns:
    """Whose turn it is at step k: buckets interleaved in proportion to their weights.

    Visit j of bucket b happens at the time (j + u) / w_b, where w_b is the weight of b and u in [0, 1) a hash of
    (seed, b, j): one visit in every interval of length 1 / w_b, somewhere in it. Step k is the k-th event of all
    buckets in the order of time. Every bucket keeps its share to within a constant at every step, the order is not
    periodic, and the k-th event is found by sorting the few events around the time k / sum(w).
    """

    def __init__(self, weights: NDArray[np.float64], *, names: NDArray[np.uint64], seed: int):
        """``weights`` (m,) positive; ``names`` (m,) distinct numbers of the buckets."""
        self._weights = weights
        self._sum = fsum(weights)  # rounded alike on every machine
        self._keys = mixed(seed, _TURNS, names)

    def at(self, k: int) -> tuple[int, int]:
        """The place of the bucket that has its turn at step ``k``, and how many turns it had before."""
        places, visits, first = self._window(k)
        jitter = mixed(self._keys[places], visits) >> np.uint64(64 - _JITTER_BITS)
        times = (visits + jitter / 2**_JITTER_BITS) / self._weights[places]
        event = np.lexsort((visits, places, times))[k - int(first.sum())]
        return int(places[event]), int(visits[event])

    def _window(self, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """All events that may be the k-th (place, visit), and the first visit (m,) of each bucket among them.

        At time s a bucket has had floor(w s) or one visit more, so all m together between W s - m and W s + m.
        """
        weights, spread = self._weights, len(self._weights) + 2
        first = np.floor(weights * (max(0, k - spread) / self._sum)).astype(np.int64)
        last = np.floor(weights * ((k + spread) / self._sum)).astype(np.int64) + 2
        lengths = last - first
        places = np.repeat(np.arange(len(weights)), lengths)
        visits = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths - first, lengths)
        return places, visits, first


class Shares:
    """What each of D parts gives to each visit of one bucket: systematic sampling (Madow 1949), without a draw.

    Part d gives r_d = f_d + frac_d samples on average: f_d or f_d + 1 to every visit, and all parts together exactly
    the batch. Lay intervals of the lengths frac_d end to end from 0: in visit v a part gives one more when its interval
    holds x_v + m for a whole number m. The points x_v in [0, 1) are multiples of 1 / PERIOD in bit-reversed order
    (van der Corput), so any run of visits, however short, is close to its average, and PERIOD of them are exact.
    """

    def __init__(self, rates: NDArray[np.float64], *, size: int):
        """``rates`` (D,) positive, in any unit; ``size`` is the global batch. Every part gives at least 1 / PERIOD."""
        ideal = rates / fsum(rates) * (size * PERIOD)
        self.per_period = np.maximum(1, np.floor(ideal)).astype(np.int64)  # (D,)
        self.per_period[np.argmax(ideal)] += size * PERIOD - self.per_period.sum()  # less than D of some thousands
        assert self.per_period.min() > 0
        self.least, fractions = np.divmod(self.per_period, PERIOD)  # (D,)
        ends = np.concatenate([[0], np.cumsum(fractions)])  # (D + 1,)
        points = _bits_reversed(PERIOD)
        extra = np.diff(-((points - ends[:, None]) // PERIOD), axis=0)  # (D, PERIOD) of 0 and 1
        self._extras = np.zeros((len(rates), PERIOD + 1), dtype=np.int16)  # before each visit of a period
        np.cumsum(extra, axis=1, out=self._extras[:, 1:])

    def before(self, part: int, visit: int) -> int:
        """How many samples part ``part`` has given before visit ``visit``."""
        periods, within = divmod(visit, PERIOD)
        given = periods * int(self.per_period[part]) + within * int(self.least[part])
        return given + int(self._extras[part, within])

    def visit_of(self, part: int, element: int) -> int:
        """The visit to which part ``part`` gives its sample number ``element``, counted from 0."""
        periods, within = divmod(element, int(self.per_period[part]))
        before = np.arange(PERIOD + 1) * self.least[part] + self._extras[part]
        return periods * PERIOD + int(np.searchsorted(before, within, side="right")) - 1


def _bits_reversed(count: int) -> NDArray[np.int64]:
    """The numbers of range(``count``), a power of two, each with its bits in reverse."""
    numbers = np.zeros(1, dtype=np.int64)
    while len(numbers) < count:
        numbers = np.concatenate([2 * numbers, 2 * numbers + 1])
    return numbers
