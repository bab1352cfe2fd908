"""The tensors of a diffusers folder: one safetensors file, or several with an index that says which lies where."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from pixart.foreign_words import quoted

WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"


def read_shards(folder: Path) -> tuple[dict[str, Tensor], str | None]:
    """The tensors in ``folder``, and the licence in their metadata.

    Raises ``ValueError`` naming the file that is missing or damaged, or the tensor that is in a file and not in the
    index, in two files, in another than the index says, or in the index alone.
    """
    if (folder / WEIGHTS).is_file():
        return _read(folder / WEIGHTS)
    if not (folder / INDEX).is_file():
        raise ValueError(f"{folder} holds neither {WEIGHTS} nor {INDEX}; pickled .bin files of diffusers are not read")
    placed = _placed(folder / INDEX)
    tensors: dict[str, Tensor] = {}
    licence = None
    for file in sorted(set(placed.values())):
        found, said = _read(folder / file)
        for name in found:
            if placed.get(name) != file:
                where = f"is said to be in {placed[name]}" if name in placed else "is not in the index"
                raise ValueError(f"{folder / file}: tensor {quoted(name)} {where}; get the folder again")
        tensors, licence = tensors | found, said or licence
    for name in placed.keys() - tensors.keys():
        raise ValueError(f"{folder / placed[name]}: tensor {quoted(name)} of the index is missing; get it again")
    return tensors, licence


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; ``ValueError`` where there is none."""
    if not path.is_file():  # a pipe would be waited for
        raise ValueError(f"{path}: there is no such file; get the folder again")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); get the folder again") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not readable as JSON; get the folder again") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no object; get the folder again")
    return value


def _placed(index: Path) -> dict[str, str]:
    """The file of each tensor."""
    placed = read_object(index).get("weight_map")
    names = list(placed.values()) if isinstance(placed, dict) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise ValueError(f"{index} names no shards; get the folder again")
    return dict(placed) if isinstance(placed, dict) else {}


def _read(file: Path) -> tuple[dict[str, Tensor], str | None]:
    if not file.is_file():  # a pipe would be waited for
        raise ValueError(f"{file}: there is no such file; get the folder again")
    try:
        with safe_open(file, framework="pt") as opened:
            licence = (opened.metadata() or {}).get("licence")
            return {name: opened.get_tensor(name) for name in opened.keys()}, licence  # noqa: SIM118  no mapping
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: not a whole safetensors file; copy or download it again") from error
