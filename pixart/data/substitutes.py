"""Reading what a batch is planned to hold, with another sample in the place of each that cannot be used."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from pixart.batch import Fault
from pixart.data.source import BadSample, Sample

LEAST_SEEN = 10_000  # samples: before so many a share of bad ones would be a matter of chance
ATTEMPTS = 16  # substitutes tried for one position: were they all bad, it would be no accident


class Read(NamedTuple):
    """One position of a batch as it was read."""

    row: int  # of the source; not the planned one where that was bad
    sample: Sample
    faults: tuple[Fault, ...]  # the bad sample, and each bad substitute


class NothingLeft(ValueError):
    """Positions of a batch for which every sample that was tried is bad; ``faults`` are all that the batch met."""

    def __init__(self, sentence: str, faults: tuple[Fault, ...]):
        super().__init__(sentence, faults)  # both, so that it comes whole out of a worker
        self.faults = faults

    def __str__(self) -> str:
        return str(self.args[0])


def read_or_substitute(
    read: Callable[[int], Sample], row: int, substitute: Callable[[int, int, int], int], *, k: int, position: int
) -> Read:
    """``read(row)``, or the first of ``substitute(k, position, 1)``, ``(k, position, 2)``, … that can be read.

    Which one it is depends on k, the position and the data alone, so every resume and every world size agree on it.
    Raises ``NothingLeft`` after ``ATTEMPTS`` substitutes, of which none is read twice; errors other than ``BadSample``
    pass.
    """
    faults: list[Fault] = []
    failed: set[int] = set()
    for attempt in range(1, ATTEMPTS + 2):
        if row not in failed:
            try:
                return Read(row, read(row), tuple(faults))
            except BadSample as bad:
                faults.append(Fault(k, position, bad.key, bad.reason))
                failed.add(row)
        if attempt <= ATTEMPTS:
            row = substitute(k, position, attempt)
    raise NothingLeft(_sentence(faults), tuple(faults))


def read_all(reads: Iterable[Callable[[], Read]]) -> list[Read]:
    """What each of ``reads`` returns; where nothing is left for one, ``NothingLeft`` with the faults of them all."""
    found: list[Read] = []
    faults: list[Fault] = []
    first: NothingLeft | None = None
    for read in reads:
        try:
            found.append(read())
            faults += found[-1].faults
        except NothingLeft as error:
            first = first or error
            faults += error.faults
    if first is not None:
        raise NothingLeft(str(first), tuple(faults)) from first
    return found


def _sentence(faults: list[Fault]) -> str:
    k, position, key, reason = faults[0]
    others = f"the {len(faults) - 1} others of its bucket that were tried are too" if len(faults) > 1 else (
        "there is no other of its bucket"
    )  # fmt: skip
    return (
        f"position {position} of global batch {k} is {key}, which is bad ({reason}), and {others}: leave bad samples "
        "out with data.quarantine, a file that tools/doctor.py writes (the keys of this run with quarantine=bad.json, "
        "and run=, its directory, whose bad_samples.jsonl names those that it met)"
    )
