"""What training would see, told before it starts: the numbers, what would stop it, and what is worth a look."""

from collections.abc import Iterator
from math import sqrt
from typing import Any, NamedTuple

from pixart.data.buckets import Bucket
from pixart.data.substitutes import LEAST_SEEN
from pixart.preparation.doctor_samples import Captions, Labels, Read
from pixart.preparation.doctor_sizes import Sizes

# From which share on a remark is made.
_MUCH_TRUNCATED, _MUCH_ENLARGED, _MUCH_CUT, _MUCH_UNKNOWN = 0.05, 0.1, 0.15, 0.01
_Z = 1.96  # 95 %, two-sided


class PlannedBucket(NamedTuple):
    """What the plan makes of one bucket."""

    bucket: Bucket
    samples: int
    merged: int  # of these, the samples that came from smaller buckets
    global_batch: int
    batches_per_pass: float
    batches: float  # in the whole run


class PlannedPart(NamedTuple):
    """What the plan makes of one data set of a mixture, or of the only one."""

    name: str
    samples: int
    asked: float  # its share of what is seen, by its weight
    share: float  # that it gets
    steps_per_pass: float
    visits: float  # of each of its samples in the whole run, on average


class Planned(NamedTuple):
    """What the plan makes of the data in the steps of the run."""

    steps: int
    samples: int
    samples_seen: float  # in the whole run, a sample counting at each visit
    steps_per_pass: float
    buckets: tuple[PlannedBucket, ...]
    parts: tuple[PlannedPart, ...]


class Quarantined(NamedTuple):
    """A quarantine file against the data."""

    path: str
    version: int
    keys: int
    matched: int  # samples that it leaves out


class Examination(NamedTuple):
    """All that was found; None for what could not be looked at, or does not arise."""

    subject: dict[str, str]  # what was looked at, in words
    problems: tuple[str, ...] = ()  # a sentence for each reason why training would stop
    plan: Planned | None = None
    sizes: Sizes | None = None
    read: Read | None = None
    held: Read | None = None  # of the held-out samples
    captions: Captions | None = None
    labels: Labels | None = None
    stamps: dict[str, str] | None = None  # of stored features
    quarantine: Quarantined | None = None
    max_bad_share: float = 0.0

    @property
    def all_problems(self) -> list[str]:
        """``problems``, and those that the numbers tell."""
        return [*self.problems, *_problems(self)]

    @property
    def bad(self) -> dict[str, str]:
        """Key -> reason of the bad samples among those that were read, held-out ones too."""
        return {key: reason for read in (self.held, self.read) if read is not None for key, reason in read.bad.items()}

    @property
    def remarks(self) -> list[str]:
        """What does not stop training, and may not be what was meant."""
        return list(_remarks(self))

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        found = {key: _plain(value) for key, value in self._asdict().items()}
        return {
            "would_train": not self.all_problems,
            **found,
            "problems": self.all_problems,
            "remarks": self.remarks,
        }


def percent(share: float) -> str:
    """A share in percent, with as many digits as tell it from nothing."""
    return f"{100 * share:.1f} %" if share >= 0.001 or share == 0 else f"{100 * share:.2g} %"


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        return {key: _plain(item) for key, item in value._asdict().items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def at_least(found: int, samples: int, population: int) -> float:
    """A share that ``found`` of ``samples`` out of ``population`` prove, 95 % sure: Wilson's lower bound."""
    if samples == population:
        return found / samples
    share, z2 = found / samples, _Z**2 / samples
    spread = _Z * sqrt(share * (1 - share) / samples + z2 / (4 * samples))
    return max(0.0, (share + z2 / 2 - spread) / (1 + z2)) if found else 0.0


def _problems(found: Examination) -> Iterator[str]:
    read = found.read
    if found.held is not None:
        yield from (sentence for sentence in found.held.broken if read is None or sentence not in read.broken)
    if read is not None:
        yield from read.broken
        if read.bad and _too_many(found, read):
            yield (
                f"{_some_bad(read)}, more than data.max_bad_share={found.max_bad_share:g} allows: leave them out "
                "(quarantine=… writes a file of them, data.quarantine=… heeds it), mend the data, or raise the share"
            )


def _too_many(found: Examination, read: Read) -> bool:
    population = found.plan.samples if found.plan is not None else read.samples + 1
    share = at_least(len(read.bad), read.samples, population)
    seen = LEAST_SEEN if found.plan is None else found.plan.samples_seen
    return share * seen > found.max_bad_share * max(seen, LEAST_SEEN)  # as training counts


def _some_bad(read: Read) -> str:
    key, reason = next(iter(read.bad.items()))
    return f"{len(read.bad)} of {read.samples} samples are bad, the first is {key} ({reason})"


def _remarks(found: Examination) -> Iterator[str]:
    if found.plan is not None:
        yield from _about_plan(found.plan)
    if found.sizes is not None:
        yield from _about_sizes(found.sizes)
    if found.read is not None and found.read.bad and not _too_many(found, found.read):
        yield f"{_some_bad(found.read)}: training would replace each and go on"
    if found.held is not None and found.held.bad:
        yield f"held out, {_some_bad(found.held)}: validation would replace each, and its loss is another one for it"
    if found.captions is not None:
        yield from _about_captions(found.captions)
    if found.labels is not None and found.labels.absent:
        yield f"{found.labels.absent} of the {found.labels.classes} classes have no sample"
    if found.quarantine is not None and found.quarantine.matched < found.quarantine.keys:
        absent = found.quarantine.keys - found.quarantine.matched
        yield f"{absent} of the {found.quarantine.keys} keys in {found.quarantine.path} are not in the data"


def _about_plan(plan: Planned) -> Iterator[str]:
    for part in plan.parts:
        where = f"of {part.name} " if len(plan.parts) > 1 else ""
        if part.visits < 1:
            yield (
                f"the run ends before it has seen every sample {where}once: {percent(1 - part.visits)} stay unseen in "
                f"{plan.steps} steps, a pass takes {part.steps_per_pass:,.0f}"
            )
        if len(plan.parts) > 1 and part.visits > 10 * min(other.visits for other in plan.parts):
            yield f"the samples {where}are seen {part.visits:,.1f} times each, others over ten times less often"


def _about_sizes(sizes: Sizes) -> Iterator[str]:
    if sizes.small:
        names = ", ".join(f"{one.bucket.height}x{one.bucket.width}" for one in sizes.small[:3])
        more = ", …" if len(sizes.small) > 3 else ""
        yield f"buckets with fewer samples than their batch: {len(sizes.small)} ({names}{more}), see the table"
    if sizes.enlarged > _MUCH_ENLARGED:
        yield (
            f"{percent(sizes.enlarged)} of the images are smaller than their bucket and are scaled up: they teach the "
            "model blur, a lower resolution= would not"
        )
    if sizes.cut > _MUCH_CUT:
        yield (
            f"{percent(sizes.cut)} of the pixels are cropped away: data.buckets=aspect_ratio, or more buckets, "
            "keep more of them"
        )


def _about_captions(captions: Captions) -> Iterator[str]:
    if captions.truncated > _MUCH_TRUNCATED:
        yield (
            f"{percent(captions.truncated)} of the captions are longer than text_encoder.max_tokens="
            f"{captions.max_tokens} and lose their end ({percent(captions.lost)} of all tokens)"
        )
    if captions.unknown > _MUCH_UNKNOWN:
        yield f"the tokenizer does not know {percent(captions.unknown)} of what the captions say"
    if captions.emptied:
        yield f"text_encoder.cleaning leaves nothing of {percent(captions.emptied)} of the captions"
