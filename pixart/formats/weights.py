"""The one form in which weights pass from format to format."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from pixart.formats.snapshot import NullKind, Snapshot
from pixart.formats.table import Row

Format = Literal["snapshot", "pixart", "diffusers", "diffusers-pipeline"]


class Weights(NamedTuple):
    """Weights of any origin, strictly accounted for; the tensors may still lie in the file they came from."""

    tensors: dict[str, Tensor]  # named as in our model's state dict, in the precision of their file
    model_config: dict[str, Any]  # the keyword arguments of PixArt
    null_caption: Tensor | None  # (L0, D)
    null_kind: NullKind | None
    licence: str | None
    source: str  # what was read, in words
    rows: list[Row]  # one for each tensor that was read
    snapshot: Snapshot | None = None  # the snapshot it was, with what it knows of its run
    pipeline: Path | None = None  # the pipeline folder it lay in, with encoders beside it
