"""Snapshots: weights to use, in one safetensors file that says how its model is built and how it was trained."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from pixart.aside import written_aside
from pixart.foreign_words import plain
from pixart.formats.tensor_file import write_tensors
from pixart.formats.torch_files import check_dense
from pixart.models.dit import from_config
from pixart.models.weights import FORMAT, NULL_CAPTION, check_tensors, read_file, read_json, read_model_config

NullKind = Literal[
    "empty", "y_embedding"
]  # states of the empty caption, or the rows that official training had for none


class Snapshot(NamedTuple):
    """What a snapshot file holds."""

    tensors: dict[str, Tensor]  # float32, named as in the state dict of the model
    null_caption: Tensor | None  # (L, D) text states of no caption
    model_config: dict[str, Any]  # the keyword arguments of PixArt
    run_config: dict[str, Any]  # the run that made it, resolved
    stamps: dict[str, Any]  # fingerprints of the text encoder and the autoencoder it was trained with
    step: int  # optimizer steps
    samples_seen: int
    null_kind: NullKind | None = None  # what the null caption is; None where there is none
    licence: str | None = None  # of the weights that these descend from
    run: str | None = None  # a fingerprint: the snapshots of one run have the same
    profile: dict[str, Any] | None = None  # what average over the steps it is: ``described`` of formats/profiles.py


def write_snapshot(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    *,
    model_config: Mapping[str, Any],
    run_config: Mapping[str, Any],
    stamps: Mapping[str, Any],
    step: int,
    samples_seen: int,
    null_caption: Tensor | None = None,
    null_kind: NullKind = "empty",
    licence: str | None = None,
    run: str | None = None,
    profile: Mapping[str, Any] | None = None,
) -> None:
    """Write a snapshot aside, flush it to the disk and rename it: at ``path`` lies a whole file or what lay there."""
    stored = dict(tensors) if null_caption is None else {**tensors, NULL_CAPTION: null_caption}
    metadata = {
        "format": FORMAT,
        "model": json.dumps(dict(model_config)),
        "config": json.dumps(dict(run_config)),
        "stamps": json.dumps(dict(stamps)),
        "step": str(step),
        "samples_seen": str(samples_seen),
    }
    metadata |= {} if null_caption is None else {"null_caption": null_kind}
    metadata |= {} if licence is None else {"licence": licence}
    metadata |= {} if run is None else {"run": run}
    metadata |= {} if profile is None else {"profile": json.dumps(dict(profile))}
    with written_aside(Path(path)) as aside:
        write_tensors(aside, stored, metadata=metadata, dtype=torch.float32)


def read_snapshot(path: str | Path) -> Snapshot:
    """The snapshot at ``path``, its tensors on the CPU and checked against the model it describes.

    Raises ``ValueError``, in one sentence, where the file is missing, truncated, not a snapshot, or holds other tensors
    than its model has, or a null caption that its text is not as wide as.
    """
    found, metadata = read_file(path)
    tensors = check_dense(Path(path), found)
    null_caption = tensors.pop(NULL_CAPTION, None)
    model_config = read_model_config(path, metadata)
    with torch.device("meta"):
        check_tensors(path, tensors, from_config(path, model_config))
    _check_null(path, null_caption, model_config["text_dim"])
    return Snapshot(
        tensors,
        null_caption,
        model_config,
        _read_object(path, metadata, "config"),
        _read_object(path, metadata, "stamps"),
        _read_count(path, metadata, "step"),
        _read_count(path, metadata, "samples_seen"),
        None if null_caption is None else _read_kind(path, metadata),
        metadata.get("licence"),
        metadata.get("run"),
        _read_object(path, metadata, "profile") if "profile" in metadata else None,
    )


def find_snapshot(path: str | Path) -> Path:
    """``path`` itself if it is a file, or the newest snapshot of the run directory ``path``."""
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise ValueError(f"{path}: there is no such file or run directory; give a snapshot or the directory of a run")
    found = {
        int(match[1]): file
        for file in path.glob("snapshots/step_*.safetensors")
        if (match := re.fullmatch(r"step_(\d+)", file.stem))
    }
    if not found:
        raise ValueError(f"{path}: no snapshot in this directory (snapshots/step_*.safetensors); train first")
    return found[max(found)]


def _read_object(path: str | Path, metadata: dict[str, str], key: str) -> dict[str, Any]:
    try:
        return read_json(path, metadata, key)
    except RecursionError:
        raise ValueError(f"{path}: the snapshot's metadata has no readable '{key}'; write it again") from None


def _check_null(path: str | Path, null_caption: Tensor | None, width: int | None) -> None:
    if null_caption is None:
        return
    shape = tuple(null_caption.shape)
    if width is None or len(shape) != 2 or shape[0] == 0 or shape[1] != width:
        wanted = "there is no text" if width is None else f"captions are (L, {width})"
        raise ValueError(f"{path}: tensor '{NULL_CAPTION}' is {plain(str(shape))}, where {wanted}")


def _read_kind(path: str | Path, metadata: dict[str, str]) -> NullKind:
    kind = metadata.get("null_caption", "empty")
    if kind not in get_args(NullKind):
        raise ValueError(
            f"{path}: the snapshot's metadata 'null_caption' is {plain(kind)}, which is not known; write it again"
        )
    return kind  # type: ignore[return-value]


def _read_count(path: str | Path, metadata: dict[str, str], key: str) -> int:
    if not metadata.get(key, "").isdecimal():
        raise ValueError(f"{path}: the snapshot's metadata has no number '{key}'; write it again")
    return int(metadata[key])
