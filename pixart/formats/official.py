"""PixArt's own files (.pth) and Meta's DiT files (.pt): our names, beside a table of positions and a null caption."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pixart.foreign_words import plain
from pixart.formats import released
from pixart.formats.architecture import CAPTION, check, infer, on_meta, patch_size_of
from pixart.formats.positions import POS_EMBED, Square, Told, find_square, left_behind, table
from pixart.formats.table import Row
from pixart.formats.torch_files import check_dense
from pixart.formats.weights import Weights, own

Y_EMBEDDING = "y_embedder.y_embedding"  # (L, D): what official training shows the model in place of a dropped caption
RAW, EMA = "state_dict", "state_dict_ema"
WRAPPED = "module."  # what DistributedDataParallel puts before every name
LICENCE = "licence"


def read_official(path: Path, loaded: Mapping[str, Any], given: Told, otherwise: Told) -> Weights:
    """Weights out of what a .pth or .pt file of PixArt or DiT holds; which of the two, its tensors tell.

    Averaged weights are preferred where there are both. Raises ``ValueError`` naming what is missing, unknown or of
    another shape.
    """
    held, part, rows = _unpack(path, loaded)
    tensors = check_dense(path, held)
    pos_embed, y_embedding = tensors.pop(POS_EMBED, None), tensors.pop(Y_EMBEDDING, None)
    patch_size = patch_size_of(path, tensors)
    square = find_square(path, pos_embed, patch_size, given, otherwise)
    config = infer(path, tensors, square, given, otherwise)
    check(path, tensors, on_meta(path, config).state_dict())
    is_dit = config["adaln"] == "per_block"
    _check_null(path, y_embedding, config)
    if pos_embed is not None:
        rows.append(left_behind(square, patch_size))
    if y_embedding is not None:
        from_raw = part == EMA and Y_EMBEDDING in _raw(loaded)
        where = f"from {RAW}: official averages may keep a random one" if from_raw else ""
        rows.append(Row(Y_EMBEDDING, "renamed", ", ".join(filter(None, ["null_caption", where]))))
    return Weights(
        tensors,
        config,
        null_caption=y_embedding,
        null_kind=None if y_embedding is None else "y_embedding",
        licence=released.DIT_LICENCE if is_dit else _licence(loaded),
        source=f"{path}: {'DiT' if is_dit else 'PixArt'} file, {part or 'bare tensors'}",
        rows=rows + [Row(name, "copied", "") for name in tensors],
    )


def to_official(weights: Weights, null_caption: Tensor) -> dict[str, Any]:
    """What a PixArt .pth holds, ``null_caption`` being all rows of its ``y_embedding``."""
    config = weights.model_config
    square = Square(config["input_size"], config["interpolation_scale"])
    held = {
        POS_EMBED: table(config["dim"], config["patch_size"], square),
        Y_EMBEDDING: own(null_caption),
        **{name: own(tensor) for name, tensor in weights.tensors.items()},
    }
    return {RAW: held} | ({} if weights.licence is None else {LICENCE: weights.licence})


def _unpack(path: Path, loaded: Mapping[str, Any]) -> tuple[dict[str, Any], str, list[Row]]:
    """The tensors to use, the name of the part they were in ("" for a bare file), and what of the file is not used."""
    part = next((part for part in (EMA, RAW, "ema", "model") if part in loaded), "")
    if not part:
        held, rows = _unwrap({name: value for name, value in loaded.items() if name != LICENCE})
        return held, "", rows
    if not isinstance(loaded[part], Mapping):
        raise ValueError(f"{path}: '{part}' is no dictionary of tensors")
    held, rows = _unwrap(loaded[part])
    raw = _raw(loaded)
    if part == EMA and Y_EMBEDDING in raw:
        held[Y_EMBEDDING] = raw[Y_EMBEDDING]
    others = [name for name in loaded if name not in (part, LICENCE)]
    details = {name: f"{part} is used" if name in (RAW, "model") else "state of a training" for name in others}
    return held, part, rows + [Row(name, "left behind", detail) for name, detail in details.items()]


def _unwrap(held: Mapping[Any, Any]) -> tuple[dict[Any, Any], list[Row]]:
    """Without the prefix of a wrapped model where every name has it, which then has a row."""
    if not held or not all(isinstance(name, str) and name.startswith(WRAPPED) for name in held):
        return dict(held), []
    row = Row(f"{WRAPPED}*", "renamed", "*: the prefix of a wrapped model is taken off")
    return {name.removeprefix(WRAPPED): value for name, value in held.items()}, [row]


def _raw(loaded: Mapping[str, Any]) -> Mapping[Any, Any]:
    return _unwrap(loaded[RAW])[0] if isinstance(loaded.get(RAW), Mapping) else {}


def _check_null(path: Path, y_embedding: Tensor | None, config: Mapping[str, Any]) -> None:
    if config["text_dim"] is None:
        if y_embedding is not None:
            raise ValueError(f"{path}: tensor '{Y_EMBEDDING}' is unknown to a model without text")
        return
    if y_embedding is None:
        raise ValueError(f"{path}: tensor '{Y_EMBEDDING}' is missing")
    if y_embedding.ndim != 2 or y_embedding.shape[1] != config["text_dim"] or not len(y_embedding):
        raise ValueError(
            f"{path}: tensor '{Y_EMBEDDING}' is {plain(str(tuple(y_embedding.shape)))}, not (L, {config['text_dim']}) "
            f"as tensor '{CAPTION}' takes it"
        )


def _licence(loaded: Mapping[str, Any]) -> str | None:
    licence = loaded.get(LICENCE)
    return plain(licence) if isinstance(licence, str) else None
