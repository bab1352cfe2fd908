"""A sample of the samples, read as training reads them: are they whole, and how much of their captions is kept?"""

import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pixart.data.source import BadSample, Source
from pixart.encoders.tokenizer import Tokenizer

UNLIMITED = 1 << 30  # tokens: for a tokenizer that cuts nothing
_BARS = 12  # of the picture of caption lengths


class Read(NamedTuple):
    """What came of reading some samples."""

    samples: int  # that were chosen
    shards: int  # that they lie in; 0 where there are no files
    bad: dict[str, str]  # key -> reason, of single samples
    broken: tuple[str, ...]  # a sentence for each file that could not be read
    captions: dict[str, tuple[str, ...]]  # key -> what training may use, of each sample that is whole
    samples_per_second: float  # read and decoded by one process; 0 where none was


class Captions(NamedTuple):
    """Captions against the text encoder's limit; lengths are in tokens, end token included."""

    captions: int
    max_tokens: int
    truncated: float  # share of the captions that are longer
    lost: float  # share of all tokens that are cut off
    median: float
    longest: int
    emptied: float  # share of the captions of which the cleaning leaves nothing
    unknown: float  # share of all tokens that stand for what the tokenizer does not know
    edges: tuple[int, ...]  # of the bars: lengths edges[i] + 1 .. edges[i + 1]
    bars: tuple[float, ...]  # share of the captions


def choose(
    rows: NDArray[np.int64], shards: NDArray[np.int32] | None, *, samples: int, files: int, seed: int
) -> NDArray[np.int64]:
    """``samples`` of ``rows`` (n,), ascending, all out of ``files`` shards, both drawn from ``seed``.

    ``shards`` (m,) is the shard of each row of the source; with None any row will do.
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    if shards is not None:
        of_rows = shards[rows]
        there = np.unique(of_rows)
        rows = rows[np.isin(of_rows, rng.choice(there, min(files, len(there)), replace=False))]
    return np.sort(rng.choice(rows, min(samples, len(rows)), replace=False))


def read_samples(source: Source, rows: NDArray[np.int64], *, choice: Literal["first", "random"]) -> Read:
    """Read ``rows`` of ``source``, and keep what is to be told.

    A file that cannot be read is told once, and left alone from then on: a far one would time out at each sample.
    ``choice`` as in training: of several captions the first alone is used, or any.
    """
    bad: dict[str, str] = {}
    broken: dict[int, str] = {}
    captions: dict[str, tuple[str, ...]] = {}
    seconds = 0.0
    files = np.zeros(len(rows), np.int32) if source.shards is None else source.shards[rows]
    for row, file in zip(rows.tolist(), files.tolist(), strict=True):
        if file in broken:
            continue
        started = time.perf_counter()
        try:
            sample = source.read(row)
        except BadSample as error:
            bad[error.key] = error.reason
        except (ValueError, OSError) as error:
            broken[file] = str(error)
        else:
            seconds += time.perf_counter() - started
            captions[sample.key] = sample.captions[:1] if choice == "first" else sample.captions
    return Read(
        samples=len(rows),
        shards=0 if source.shards is None else len(np.unique(files)),
        bad=bad,
        broken=tuple(broken.values()),
        captions=captions,
        samples_per_second=len(captions) / seconds if seconds else 0.0,
    )


def examine_captions(captions: Sequence[str], tokenizer: Tokenizer, *, max_tokens: int) -> Captions:
    """How ``captions`` (one or more) fare under a limit of ``max_tokens``; ``tokenizer`` itself must cut nothing."""
    ids = tokenizer.tokenize(captions)
    lengths = np.array([len(one) for one in ids])
    unknown = tokenizer.backend.unk_token_id
    edges = _edges(max_tokens, int(lengths.max()))
    counts = np.bincount(np.searchsorted(edges[1:], lengths), minlength=len(edges) - 1)
    return Captions(
        captions=len(captions),
        max_tokens=max_tokens,
        truncated=float((lengths > max_tokens).mean()),
        lost=float((lengths - max_tokens).clip(0).sum() / lengths.sum()),
        median=float(np.median(lengths)),
        longest=int(lengths.max()),
        emptied=float((lengths == 1).mean()),
        unknown=sum(one.count(unknown) for one in ids) / int(lengths.sum()),
        edges=tuple(edges),
        bars=tuple((counts / len(captions)).tolist()),
    )


def _edges(max_tokens: int, longest: int) -> list[int]:
    """From 0 up in even steps that hit ``max_tokens``, about a dozen; what is longer than that shares the last."""
    step = max(1, -(-max_tokens // (_BARS * 2 // 3)))
    inner = [*range(max_tokens % step, max_tokens + 1, step)]
    beyond = [*range(max_tokens + step, min(longest, max_tokens + step * _BARS // 3) + 1, step)]
    edges = [0, *(edge for edge in [*inner, *beyond] if edge > 0)]
    return edges if longest <= edges[-1] else [*edges, longest]


class Labels(NamedTuple):
    """The labels of all samples against the number of classes."""

    classes: int
    missing: int  # samples without one
    outside: int  # samples whose label is no class
    absent: int  # classes without a sample
    fewest: int  # samples of the rarest class
    most: int


def examine_labels(labels: NDArray[np.int64] | None, samples: int, *, classes: int) -> Labels:
    """``labels`` (n,), -1 where there is none, None where no sample has one."""
    if labels is None:
        return Labels(classes, samples, 0, classes, 0, 0)
    inside = labels[(labels >= 0) & (labels < classes)]
    counts = np.bincount(inside, minlength=classes)
    missing = int((labels < 0).sum())
    return Labels(
        classes=classes,
        missing=missing,
        outside=len(labels) - len(inside) - missing,
        absent=int((counts == 0).sum()),
        fewest=int(counts.min()),
        most=int(counts.max()),
    )
