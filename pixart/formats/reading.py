"""Weights from anywhere: look at what lies at a path, and hand it to the reader of that format."""

from pathlib import Path

import torch

from pixart.formats import diffusers_folder
from pixart.formats.architecture import on_meta
from pixart.formats.official import read_official
from pixart.formats.positions import NOTHING, Told
from pixart.formats.snapshot import find_snapshot, read_snapshot
from pixart.formats.table import Row
from pixart.formats.torch_files import load_torch
from pixart.formats.weights import Weights
from pixart.models.dit import PixArt

MODEL_INDEX = "model_index.json"


def read(
    source: str | Path,
    *,
    num_heads: int | None = None,
    input_size: int | None = None,
    interpolation_scale: float | None = None,
    otherwise: Told = NOTHING,
) -> Weights:
    """The weights at ``source``, each of its tensors accounted for.

    Args:
        source: a run directory or snapshot of ours; a PixArt ``.pth`` or DiT ``.pt`` file, bare or of a training; a
            folder of diffusers' ``PixArtTransformer2DModel``, or of a whole pipeline with ``transformer/`` in it.
        num_heads: where a file without configuration has a width that no released model has.
        input_size: latent cells a side, where the file has no positions; in place of what they tell.
        interpolation_scale: likewise.
        otherwise: what to take where neither the file nor the caller tells.

    Raises:
        ValueError: one sentence naming the file and what is wrong with it: missing, damaged, unsafe, a tensor that is
            unknown, missing or of another shape, or a number that must be given.
    """
    path, given = Path(source).expanduser(), Told(num_heads, input_size, interpolation_scale)
    if (path / MODEL_INDEX).is_file():
        return diffusers_folder.read_diffusers(path / "transformer", given)._replace(pipeline=path)
    if (path / diffusers_folder.CONFIG).is_file():
        return diffusers_folder.read_diffusers(path, given)
    if path.is_dir() or not path.exists() or path.suffix == ".safetensors":
        return _ours(find_snapshot(path))
    return read_official(path, load_torch(path), given, otherwise)


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
    other = read(source, otherwise=Told(weights.model_config["num_heads"], weights.model_config["input_size"], 1.0))
    if other.null_caption is None or other.null_caption.shape[1] != weights.model_config["text_dim"]:
        raise ValueError(f"null_caption={source} carries no null caption of width {weights.model_config['text_dim']}")
    return weights._replace(null_caption=other.null_caption, null_kind=other.null_kind)


def _ours(path: Path) -> Weights:
    snapshot = read_snapshot(path)
    return Weights(
        snapshot.tensors,
        snapshot.model_config,
        snapshot.null_caption,
        snapshot.null_kind,
        snapshot.licence,
        source=f"{path}: snapshot of step {snapshot.step}",
        rows=[Row(name, "copied", "") for name in snapshot.tensors],
        snapshot=snapshot,
    )
