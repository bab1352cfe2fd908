"""Whether every sample has what a run needs of it: a caption, or a label that is a class."""

import numpy as np
from numpy.typing import NDArray

from pixart.data.source import Source

_NAMED = 3  # keys in a sentence
_LEAVE = "leave them out with data.quarantine, or prepare the data again without them"


def lacking(source: Source, rows: NDArray[np.int64], *, captions: bool, classes: int | None) -> list[str]:
    """A sentence for each thing that some of ``rows`` (n,) lack, with how many, the first keys and the mend.

    ``captions``: whether each needs one; ``classes``: each needs a label from 0 to ``classes`` - 1, None: none does.
    Looks at columns only, and reads no sample.
    """
    sentences = []
    counts = source.caption_counts
    if captions and counts is not None and not counts[rows].all():
        silent = rows[counts[rows] == 0]
        mend = _LEAVE if len(silent) < len(rows) else "these data are for training on labels (stage 1)"
        sentences.append(f"{_some(source, silent, rows)} have no caption, which this stage needs: {mend}")
    if classes is None:
        return sentences
    labels = np.full(len(rows), -1) if source.labels is None else source.labels[rows]
    if (missing := rows[labels < 0]).size:
        mend = _LEAVE if len(missing) < len(rows) else "these data are for training on captions (stages 2 and 3)"
        sentences.append(f"{_some(source, missing, rows)} have no label, which this stage needs: {mend}")
    if (outside := rows[labels >= classes]).size:
        sentences.append(
            f"{_some(source, outside, rows)} have a label that is not one of the {classes} classes: set "
            f"data.num_classes to how many there are (the largest label is {labels.max()})"
        )
    return sentences


def _some(source: Source, which: NDArray[np.int64], rows: NDArray[np.int64]) -> str:
    keys = ", ".join(source.key(int(row)) for row in which[:_NAMED])
    return f"{len(which)} of {len(rows)} samples ({keys}{', …' if len(which) > _NAMED else ''})"
