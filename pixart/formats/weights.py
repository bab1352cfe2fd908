"""The one form in which weights pass from format to format."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pixart.formats import released
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
    told: dict[str, Any] | None = None  # what that folder's scheduler tells of the run, in the words of a run
    path: Path | None = None  # where it was read from


def run_config(weights: Weights) -> dict[str, Any]:
    """What is known of the run that made the weights, in the words of its configuration; {} of most foreign ones."""
    return dict(weights.told or {}) if weights.snapshot is None else weights.snapshot.run_config


def section(weights: Weights, name: str) -> Mapping[str, Any]:
    """A section of that configuration; {} where there is none, ``ValueError`` where it is no object."""
    found = run_config(weights).get(name) or {}
    if not isinstance(found, Mapping):
        raise ValueError(f"{weights.source}: '{name}' in the configuration kept with it is no object; write it again")
    return found


def objective_of(weights: Weights) -> dict[str, Any]:
    """The objective section that the weights were trained for; the released models' in whatever they do not say."""
    return {"kind": "gaussian", **released.OBJECTIVE, **section(weights, "objective")}


def own(tensor: Tensor) -> Tensor:
    """``tensor`` with a storage to itself: writers store what lies under a view in full, or refuse it."""
    if tensor.is_meta or (tensor.is_contiguous() and tensor.untyped_storage().nbytes() == _size(tensor)):
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
