"""Weights from anywhere: look at what lies at a path, and hand it to the reader of that format."""

from collections.abc import Callable
from pathlib import Path

import torch

from pixart.foreign_words import plain
from pixart.formats import diffusers_folder
from pixart.formats.architecture import on_meta
from pixart.formats.looking import Kind, look
from pixart.formats.official import read_official
from pixart.formats.positions import NOTHING, Told
from pixart.formats.scheduler_config import run_of_pipeline
from pixart.formats.snapshot import find_snapshot, read_snapshot
from pixart.formats.table import Row
from pixart.formats.torch_files import check_values, load_torch
from pixart.formats.weights import Weights
from pixart.models.dit import PixArt


def read(
    source: str | Path,
    *,
    num_heads: int | None = None,
    input_size: int | None = None,
    interpolation_scale: float | None = None,
    otherwise: Told = NOTHING,
    allow_nonfinite: bool = False,
) -> Weights:
    """The weights at ``source``, each of its tensors accounted for.

    Args:
        source: a run directory or snapshot of ours; a PixArt ``.pth`` or DiT ``.pt`` file, bare or of a training; a
            folder of diffusers' ``PixArtTransformer2DModel``, or of a whole pipeline with ``transformer/`` in it.
        num_heads: where a file without configuration has a width that no released model has.
        input_size: latent cells a side, where the file has no positions that show it.
        interpolation_scale: likewise.
        otherwise: what to take where neither the file nor the caller tells.
        allow_nonfinite: let tensors in that hold NaN, infinity, or numbers beyond float32.

    Raises:
        ValueError: one sentence naming the file and what is wrong with it: missing, damaged, unsafe, a tensor that is
            unknown, missing, of another shape or not finite, a number that must be given (``Untold``), or one that was
            given and that the file contradicts.
    """
    path, given = Path(source).expanduser(), Told(num_heads, input_size, interpolation_scale)
    weights = _unchecked(path, given, otherwise)
    null = {} if weights.null_caption is None else {"null_caption": weights.null_caption}
    check_values(path, {**weights.tensors, **null}, allow_nonfinite=allow_nonfinite)
    return weights


def load(
    source: str | Path,
    *,
    num_heads: int | None = None,
    input_size: int | None = None,
    interpolation_scale: float | None = None,
) -> PixArt:
    """The model at ``source``, on the CPU in float32 and in evaluation mode; arguments and errors as ``read``."""
    return build(read(source, num_heads=num_heads, input_size=input_size, interpolation_scale=interpolation_scale))


def build(weights: Weights) -> PixArt:
    """The model of ``weights``, on the CPU in float32 and in evaluation mode."""
    model = on_meta(Path(weights.source), weights.model_config)
    # Copied, since what was read may be a map of the file, which others may write to.
    held = {name: tensor.to(torch.float32, copy=True) for name, tensor in weights.tensors.items()}
    model.load_state_dict(held, assign=True)
    return model.eval()


def with_null_caption(weights: Weights, source: str | Path) -> Weights:
    """``weights`` with the null caption that those at ``source`` carry; ``ValueError`` if it does not fit."""
    if weights.model_config["text_dim"] is None:
        raise ValueError(f"null_caption={source}: {weights.source} knows no text; leave it out")
    same = Told(weights.model_config["num_heads"], weights.model_config["input_size"], 1.0)
    other = _unchecked(Path(source).expanduser(), NOTHING, same)  # whose other tensors stay on the disk
    if other.null_caption is None or other.null_caption.shape[1] != weights.model_config["text_dim"]:
        raise ValueError(f"null_caption={source} carries no null caption of width {weights.model_config['text_dim']}")
    check_values(Path(source), {"null_caption": other.null_caption}, allow_nonfinite=False)
    return weights._replace(null_caption=other.null_caption, null_kind=other.null_kind)


def _unchecked(path: Path, given: Told, otherwise: Told) -> Weights:
    """All but a look at each number, which would bring a whole file into memory."""
    return _READERS[look(path)](path, given, otherwise)._replace(path=path)


def _ours(path: Path, given: Told, _: Told) -> Weights:
    path = find_snapshot(path)
    snapshot = read_snapshot(path)
    diffusers_folder.refuse_contradiction(path, snapshot.model_config, given)
    return Weights(
        snapshot.tensors,
        snapshot.model_config,
        snapshot.null_caption,
        snapshot.null_kind,
        None if snapshot.licence is None else plain(snapshot.licence),
        source=f"{path}: snapshot of step {snapshot.step}",
        rows=[Row(name, "copied", "") for name in snapshot.tensors],
        snapshot=snapshot,
    )


def _official(path: Path, given: Told, otherwise: Told) -> Weights:
    return read_official(path, load_torch(path), given, otherwise)


def _transformer(path: Path, given: Told, _: Told) -> Weights:
    return diffusers_folder.read_diffusers(path, given)


def _pipeline(path: Path, given: Told, _: Told) -> Weights:
    weights = diffusers_folder.read_diffusers(path / "transformer", given)
    return weights._replace(pipeline=path, told=run_of_pipeline(path))


_READERS: dict[Kind, Callable[[Path, Told, Told], Weights]] = {
    "ours": _ours,
    "official": _official,
    "transformer": _transformer,
    "pipeline": _pipeline,
}
