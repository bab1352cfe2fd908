"""Whether a stored configuration can be that of a model, before one is built from it."""

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pixart.models.attention import BACKENDS
from pixart.models.recompute import CHECKPOINTING

_LONGEST = 80  # characters of a value that a sentence shows

MOST = {
    "input_size": 1 << 14,  # latent cells a side
    "patch_size": 1 << 8,
    "in_channels": 1 << 12,
    "out_channels": 1 << 13,
    "dim": 1 << 16,
    "depth": 1000,
    "num_heads": 1 << 12,
    "text_dim": 1 << 20,
    "num_classes": 1 << 24,
}  # far beyond any model: above them is a mistake that would fill the memory, or the time, before a tensor is missed
MAY_BE_NONE = ("text_dim", "num_classes")
WORDS = {"adaln": ("single", "per_block"), "attention": tuple(BACKENDS), "checkpointing": CHECKPOINTING}
LARGEST_RATIO = 1024.0  # of mlp_ratio and interpolation_scale, and one over the smallest


def check_config(path: Path | str, config: Mapping[str, Any], *, known: Collection[str]) -> None:
    """``ValueError`` naming a key of ``known`` that is missing, one that is unknown, or one of no possible value."""
    for key in set(known) - config.keys():
        raise _refusal(path, f"it has no {key}")
    for key in config.keys() - set(known):
        raise _refusal(path, f"{_shown(key)} is no key of a model")
    for key, most in MOST.items():
        if not (is_whole(config[key], most) or (key in MAY_BE_NONE and config[key] is None)):
            raise _refusal(path, f"{key}={_shown(config[key])} must be a whole number from 1 to {most}")
    for key in ("mlp_ratio", "interpolation_scale"):
        if not is_ratio(config[key]):
            raise _refusal(path, f"{key}={_shown(config[key])} must be a number above 0, at most {LARGEST_RATIO:g}")
    for key in ("size_conditioning", "fp32_attention"):
        if not isinstance(config[key], bool):
            raise _refusal(path, f"{key}={_shown(config[key])} must be true or false")
    if (wrong := wrong_word(config)) is not None:
        raise _refusal(path, wrong)


def check_buildable(config: dict[str, Any]) -> None:
    """``ValueError`` for numbers that no transformer can be built of."""
    dim, num_heads, patch_size = config["dim"], config["num_heads"], config["patch_size"]
    if dim % num_heads or dim % 4:
        raise ValueError(f"dim={dim} must be divisible by 4 and by num_heads={num_heads}")
    if config["input_size"] % patch_size:
        raise ValueError(f"input_size={config['input_size']} must be divisible by patch_size={patch_size}")
    if (wrong := wrong_word(config)) is not None:
        raise ValueError(wrong)


def wrong_word(config: Mapping[str, Any]) -> str | None:
    """Which key of ``config`` holds none of the words that it may, as a sentence; None where all do."""
    for key, words in WORDS.items():
        if config[key] not in words:
            return f"{key}={_shown(config[key])} must be one of {', '.join(words)}"
    return None


def is_whole(value: object, most: int) -> bool:
    """Whether ``value`` is an integer from 1 to ``most``."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def is_ratio(value: object) -> bool:
    """Whether ``value`` is a finite number above zero, and neither tiny nor huge."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return False
    return 1 / LARGEST_RATIO <= value <= LARGEST_RATIO


def _shown(value: object) -> str:
    return ascii(value)[:_LONGEST]


def _refusal(path: Path | str, what: str) -> ValueError:
    return ValueError(f"{path}: the model it describes cannot be built: {what}; write or get it again")
