"""Reading what a batch is planned to hold, with another sample in the place of each that cannot be used."""

from collections.abc import Callable
from typing import NamedTuple

from pixart.batch import Fault
from pixart.data.source import BadSample, Sample

ATTEMPTS = 16  # substitutes tried for one position: were they all bad, it would be no accident


class Read(NamedTuple):
    """One position of a batch as it was read."""

    row: int  # of the source; not the planned one where that was bad
    sample: Sample
    faults: tuple[Fault, ...]  # the bad sample, and each bad substitute


def read_or_substitute(
    read: Callable[[int], Sample], row: int, substitute: Callable[[int, int, int], int], *, k: int, position: int
) -> Read:
    """``read(row)``, or the first of ``substitute(k, position, 1)``, ``(k, position, 2)``, … that can be read.

    Which one it is depends on k, the position and the data alone, so every resume and every world size agree on it.
    Raises ``ValueError`` after ``ATTEMPTS`` substitutes; errors other than ``BadSample`` pass.
    """
    faults: list[Fault] = []
    for attempt in range(1, ATTEMPTS + 2):
        try:
            return Read(row, read(row), tuple(faults))
        except BadSample as bad:
            faults.append(Fault(k, position, bad.key, bad.reason))
        if attempt <= ATTEMPTS:
            row = substitute(k, position, attempt)
    first = faults[0]
    raise ValueError(
        f"position {position} of global batch {k} and its {ATTEMPTS} substitutes are all bad, the first {first.key}: "
        f"{first.reason}; tools/doctor.py tells how much of the data is"
    )
