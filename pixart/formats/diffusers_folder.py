"""Transformers of diffusers: a folder with config.json and safetensors, in one file or in shards with an index."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pixart.foreign_words import plain
from pixart.formats.architecture import RUNNING, check, on_meta
from pixart.formats.diffusers_names import join, split, theirs
from pixart.formats.positions import Told
from pixart.formats.shards import WEIGHTS, read_object, read_shards
from pixart.formats.table import Row
from pixart.formats.tensor_file import write_tensors
from pixart.formats.torch_files import check_dense
from pixart.formats.weights import Weights
from pixart.models.numbers import MOST, is_ratio, is_whole

CONFIG = "config.json"
KINDS = ("PixArtTransformer2DModel", "Transformer2DModel")  # the second is the older name
FIXED: dict[str, Any] = {  # what every PixArt has; another value is another architecture
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_type": "default",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "norm_type": "ada_norm_single",
    "num_embeds_ada_norm": 1000,
}
OLD: dict[str, Any] = {  # the same, of keys that only the older class has
    "double_self_attention": False,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "use_linear_projection": False,
}
COUNTS = {
    "sample_size": "input_size",
    "patch_size": "patch_size",
    "in_channels": "in_channels",
    "num_attention_heads": "num_heads",
    "attention_head_dim": "dim",
    "num_layers": "depth",
    "caption_channels": "text_dim",
}  # their names of our whole numbers
BUFFER = "pos_embed.pos_embed"  # positions, which some versions stored


def read_diffusers(folder: Path, given: Told) -> Weights:
    """The transformer in ``folder``; ``ValueError`` naming the key or the tensor that does not fit."""
    config = _model_config(folder, read_object(folder / CONFIG))
    refuse_contradiction(folder / CONFIG, config, given)
    found, licence = read_shards(folder)
    buffer = found.pop(BUFFER, None)
    wanted = on_meta(folder, config).state_dict()
    check(folder, found, split(wanted))
    rows = [] if buffer is None else [Row(BUFFER, "left behind", "positions are made when needed")]
    for name in wanted:
        parts = theirs(name)
        rows += [Row(part, "renamed" if len(parts) == 1 else "joined", name) for part in parts]
    return Weights(
        join(check_dense(folder, found), wanted),
        config,
        null_caption=None,
        null_kind=None,
        licence=licence,
        source=f"{folder}: diffusers transformer",
        rows=rows,
    )


def refuse_contradiction(path: Path, config: Mapping[str, Any], given: Told) -> None:
    """``ValueError`` where a number was given and the configuration says another."""
    for key, value in given._asdict().items():
        if value is not None and value != config[key]:
            raise ValueError(f"{path} says {key} is {config[key]}, and {key}={value} was given: leave it out")


def write_diffusers(folder: Path, weights: Weights) -> list[Row]:
    """Write the transformer into an empty ``folder``; ``ValueError`` where diffusers has no place for it."""
    described = diffusers_config(weights.model_config)
    licence = {} if weights.licence is None else {"licence": weights.licence}
    write_tensors(folder / WEIGHTS, split(weights.tensors), metadata={"format": "pt", **licence})
    (folder / CONFIG).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    rows = []
    for name in weights.tensors:
        parts = theirs(name)
        others = "".join(f", {part.split('.')[-2]}" for part in parts[1:])
        rows.append(Row(name, "renamed" if len(parts) == 1 else "split", parts[0] + others))
    if weights.null_caption is not None:
        rows.append(Row("null_caption", "left behind", "diffusers asks its text encoder for the empty prompt"))
    return rows


def diffusers_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a model of ours; ``ValueError`` naming what diffusers cannot build."""
    for wrong, what in [
        (config["num_classes"] is not None or config["text_dim"] is None, "labels in place of text"),
        (config["adaln"] != "single", f"adaln={config['adaln']}"),
        (int(config["dim"] * config["mlp_ratio"]) != 4 * config["dim"], f"mlp_ratio={config['mlp_ratio']:g}"),
        (config["size_conditioning"] and config["dim"] % 3, f"size conditioning at width {config['dim']}"),
    ]:
        if wrong:
            raise ValueError(f"diffusers has no PixArt with {what}: keep it as a snapshot (to=snapshot)")
    scale = config["interpolation_scale"]
    return {
        "_class_name": KINDS[0],
        "_diffusers_version": version("diffusers"),
        **FIXED,
        "attention_head_dim": config["dim"] // config["num_heads"],
        "caption_channels": config["text_dim"],
        "cross_attention_dim": config["dim"],
        "dropout": 0.0,
        "in_channels": config["in_channels"],
        "interpolation_scale": int(scale) if scale == int(scale) else scale,
        "norm_num_groups": 32,
        "num_attention_heads": config["num_heads"],
        "num_layers": config["depth"],
        "out_channels": config["out_channels"],
        "patch_size": config["patch_size"],
        "sample_size": config["input_size"],
        "upcast_attention": False,
        "use_additional_conditions": config["size_conditioning"],
    }


def _model_config(folder: Path, described: Mapping[str, Any]) -> dict[str, Any]:
    if described.get("_class_name") not in KINDS:
        raise ValueError(f"{folder / CONFIG} describes a {plain(str(described.get('_class_name')))}, not a {KINDS[0]}")
    for key, value in (FIXED | OLD).items():
        if described.get(key, value) != value:
            raise ValueError(f"{folder / CONFIG}: {key} is {plain(str(described[key]))}, and every PixArt has {value}")
    for key, ours in COUNTS.items():
        if not is_whole(described.get(key), MOST[ours]):
            raise _unusable(folder, described, key)
    for key, usable in (
        ("out_channels", lambda value: is_whole(value, MOST["out_channels"])),
        ("interpolation_scale", is_ratio),
        ("use_additional_conditions", lambda value: isinstance(value, bool)),
    ):
        if described.get(key) is not None and not usable(described[key]):
            raise _unusable(folder, described, key)
    return _translated(described)


def _unusable(folder: Path, described: Mapping[str, Any], key: str) -> ValueError:
    found = f"it is {plain(str(described[key]))}" if key in described else "there is none"
    return ValueError(f"{folder / CONFIG} lacks a usable {key} ({found}); get the folder again")


def _translated(described: Mapping[str, Any]) -> dict[str, Any]:
    sample_size, heads = described["sample_size"], described["num_attention_heads"]
    told, scale = described.get("use_additional_conditions"), described.get("interpolation_scale")
    channels = described["in_channels"]
    return {
        "input_size": sample_size,
        "patch_size": described["patch_size"],
        "in_channels": channels,
        "out_channels": described.get("out_channels") or channels,
        "dim": heads * described["attention_head_dim"],
        "depth": described["num_layers"],
        "num_heads": heads,
        "mlp_ratio": 4.0,
        "text_dim": described["caption_channels"],
        "num_classes": None,
        "size_conditioning": sample_size == 128 if told is None else told,
        "adaln": "single",
        "interpolation_scale": float(max(sample_size // 64, 1) if scale is None else scale),
        **RUNNING,
    }
