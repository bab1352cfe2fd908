"""Reading a snapshot: one safetensors file that holds a model's weights and, as text, how to build it."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

FORMAT = "pixart-snapshot"
NULL_CAPTION = "null_caption"  # (L, D) text states of the empty caption, beside the weights


def read_file(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors on the CPU and metadata of the snapshot at ``path``.

    Raises ``ValueError`` where the file is missing, damaged or not a snapshot.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"{path}: there is no such file; give the path of a snapshot (step_*.safetensors), and "
            "anything else, folders too, to pixart.formats.load"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = file.keys() if metadata.get("format") == FORMAT else []
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path}: not a whole safetensors file ({error}): write or copy it again, and "
            "give weights of other formats to pixart.formats.load"
        ) from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path}: a safetensors file, but not a snapshot of ours; convert it with tools/convert.py")
    return tensors, metadata


def read_json(path: str | Path, metadata: dict[str, str], key: str) -> dict[str, Any]:
    """The object that ``metadata[key]`` holds as text."""
    try:
        value = json.loads(metadata[key])
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: the snapshot's metadata has no readable '{key}'; write it again") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: the snapshot's metadata '{key}' is not an object; write it again")
    return value


def read_model_config(path: str | Path, metadata: dict[str, str]) -> dict[str, Any]:
    """The keyword arguments of ``PixArt`` in ``metadata``, those of older snapshots under today's names."""
    config = read_json(path, metadata, "model")
    blocks = config.get("checkpoint_blocks")
    if "checkpointing" in config or not isinstance(blocks, bool):
        return config
    del config["checkpoint_blocks"]
    return config | {"checkpointing": "blocks" if blocks else "none"}


def check_tensors(path: str | Path, tensors: dict[str, Tensor], model: nn.Module) -> None:
    """``ValueError`` naming the first tensor that the model lacks, wants, or wants in another shape."""
    wanted = model.state_dict()
    for name in sorted(wanted.keys() ^ tensors.keys()):
        raise ValueError(f"{path}: tensor '{name}' is {'missing' if name in wanted else 'unknown to the model'}")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise ValueError(f"{path}: tensor '{name}' is {tuple(tensor.shape)}, not {tuple(wanted[name].shape)}")
