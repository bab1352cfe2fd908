"""An examination as tables and bars: one form for the terminal and for the page."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from pixart.data.buckets import Bucket
from pixart.preparation.doctor import Examination, Planned, percent
from pixart.preparation.doctor_samples import Captions, Labels, Read
from pixart.preparation.doctor_sizes import CUT_EDGES, FACTOR_EDGES, Sizes

_LISTED = 10  # bad samples that a table names


class Table(NamedTuple):
    """Cells as they are shown."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: tuple[int, ...] = (0,)  # columns of words, which stand to the left; numbers to the right


class Bar(NamedTuple):
    """One bar of a plot."""

    label: str
    share: float  # of the samples
    apart: bool = False  # of another colour: what the eye should go to


class Plot(NamedTuple):
    """Bars one below the other."""

    title: str
    bars: tuple[Bar, ...]


def tables(found: Examination) -> list[Table]:
    """Every table that there is something for."""
    made = []
    if found.plan is not None:
        made += [_run(found.plan), _buckets(found.plan)]
        made += [_mixture(found.plan)] if len(found.plan.parts) > 1 else []
    if found.sizes is not None:
        made.append(_crops(found.sizes))
        made += [_small(found.sizes)] if found.sizes.small else []
    if found.read is not None:
        made.append(_read(found.read, found.held))
        made += [_bad(found.bad)] if found.bad else []
    if found.captions is not None:
        made.append(_captions(found.captions))
    if found.labels is not None:
        made.append(_labels(found.labels))
    if found.stamps:
        made.append(Table("stored features", ("", ""), tuple(found.stamps.items()), (0, 1)))
    if found.quarantine is not None:
        version, keys, matched = map(str, found.quarantine[1:])
        rows = (("version", version), ("keys", keys), ("samples left out", matched))
        made.append(Table("quarantine", (found.quarantine.path, ""), rows))
    return made


def plots(found: Examination) -> list[Plot]:
    """Bars of buckets, crops, scale factors and caption lengths."""
    made = []
    if found.plan is not None:
        total = found.plan.samples
        bars = tuple(Bar(_size(b.bucket), b.samples / total) for b in found.plan.buckets)
        made.append(Plot("samples by bucket", bars))
    if found.sizes is not None:
        cut = tuple(_between(CUT_EDGES, found.sizes.cut_bars, "{:.0%}"))
        factor = tuple(_between(FACTOR_EDGES, found.sizes.factor_bars, "{:g}", apart_from=1))
        made += [Plot("share of an image cropped away", cut), Plot("scaled by, above 1 up", factor)]
    if found.captions is not None:
        made.append(Plot("caption length in tokens", _lengths(found.captions)))
    return made


def _size(bucket: Bucket) -> str:
    return f"{bucket.height}x{bucket.width}"


def _run(plan: Planned) -> Table:
    rows = (
        ("samples to train on", f"{plan.samples:,}"),
        ("steps of the run", f"{plan.steps:,}"),
        ("steps of a pass", f"{plan.steps_per_pass:,.1f}"),
        ("samples seen in the run", f"{plan.samples_seen:,.0f}"),
        ("visits of a sample", f"{plan.samples_seen / plan.samples:,.2f}"),
    )
    return Table("the run", ("", ""), rows)


def _buckets(plan: Planned) -> Table:
    rows = tuple(
        (
            *(_size(b.bucket), f"{b.bucket.ratio:.2f}", f"{b.samples:,}", f"{b.merged:,}", f"{b.global_batch:,}"),
            *(f"{b.batches_per_pass:,.1f}", f"{b.batches:,.0f}"),
        )
        for b in plan.buckets
    )
    columns = ("size", "ratio", "samples", "merged in", "batch", "steps a pass", "in the run")
    return Table("buckets, height x width", columns, rows)


def _crops(sizes: Sizes) -> Table:
    rows = tuple(
        (_size(b.bucket), percent(b.cut), percent(b.cut_most), percent(b.enlarged), f"x {b.factor_most:.2f}")
        for b in sizes.buckets
    )
    total = ("all", percent(sizes.cut), "", percent(sizes.enlarged), "")
    columns = ("size", "cropped away", "at most", "scaled up", "at most")
    return Table("what happens to images", columns, (*rows, total))


def _mixture(plan: Planned) -> Table:
    rows = tuple(
        (p.name, f"{p.samples:,}", percent(p.asked), percent(p.share), f"{p.steps_per_pass:,.1f}", f"{p.visits:,.2f}")
        for p in plan.parts
    )
    return Table("mixture", ("data set", "samples", "asked", "got", "steps of a pass", "visits of a sample"), rows)


def _small(sizes: Sizes) -> Table:
    rows = tuple((_size(s.bucket), f"{s.samples:,}", f"{s.global_batch:,}", s.fate) for s in sizes.small)
    return Table("buckets smaller than their batch", ("size", "samples", "batch", "what becomes of it"), rows, (0, 3))


def _read(read: Read, held: Read | None) -> Table:
    rows = [("samples read", f"{read.samples:,}")]
    rows += [("of shards", f"{read.shards:,}")] if read.shards else []
    rows += [("bad", str(len(read.bad))), ("files that cannot be read", str(len(read.broken)))]
    rows += (
        [] if held is None else [("held-out samples read", f"{held.samples:,}"), ("of them bad", str(len(held.bad)))]
    )
    rows += [("samples a second and process", f"{read.samples_per_second:,.0f}")]
    return Table("looked into", ("", ""), tuple(rows))


def _bad(bad: Mapping[str, str]) -> Table:
    rows = tuple(bad.items())[:_LISTED]
    more = f" (the first {_LISTED} of {len(bad)})" if len(bad) > _LISTED else ""
    return Table(f"bad samples{more}", ("key", "reason"), rows, (0, 1))


def _captions(captions: Captions) -> Table:
    rows = (
        ("captions looked at", f"{captions.captions:,}"),
        (f"longer than {captions.max_tokens} tokens, cut", percent(captions.truncated)),
        ("tokens lost by it", percent(captions.lost)),
        ("tokens of the median", f"{captions.median:g}"),
        ("of the longest", f"{captions.longest:,}"),
        ("left empty by the cleaning", percent(captions.emptied)),
        ("tokens that are unknown", percent(captions.unknown)),
    )
    return Table("captions", ("", ""), rows)


def _labels(labels: Labels) -> Table:
    rows = (
        ("classes", f"{labels.classes:,}"),
        ("without a sample", f"{labels.absent:,}"),
        ("samples of the rarest", f"{labels.fewest:,}"),
        ("of the most frequent", f"{labels.most:,}"),
        ("samples without a label", f"{labels.missing:,}"),
        ("with a label that is no class", f"{labels.outside:,}"),
    )
    return Table("labels", ("", ""), rows)


def _lengths(captions: Captions) -> tuple[Bar, ...]:
    bars = zip(pairwise(captions.edges), captions.bars, strict=True)
    return tuple(
        Bar(f"{low + 1} to {high}" if high > low + 1 else str(high), share, low >= captions.max_tokens)
        for (low, high), share in bars
    )


def _between(
    edges: Sequence[float], shares: Sequence[float], form: str, *, apart_from: float = float("inf")
) -> Iterator[Bar]:
    """A bar for each two neighbouring edges; those from ``apart_from`` on are of the other colour."""
    for (low, high), share in zip(pairwise(edges), shares, strict=True):
        to = f"over {form.format(low)}" if high == float("inf") else f"{form.format(low)} to {form.format(high)}"
        yield Bar(to, share, low >= apart_from)
