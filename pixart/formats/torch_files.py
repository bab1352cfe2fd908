"""Pickled weights of others (.pth, .pt), read without trusting them."""

import argparse
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from struct import error as StructError
from typing import Any

import torch
from torch import Tensor

# What torch and the pickle machine raise on bytes that are not what they should be.
BROKEN = (
    UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError,
    AssertionError, StructError, zipfile.BadZipFile, MemoryError, OverflowError,
)  # fmt: skip


def load_torch(path: Path) -> Mapping[str, Any]:
    """The dictionary that ``torch.save`` wrote to ``path``, its tensors still on the disk where the file allows it.

    Nothing but tensors, containers, numbers and ``argparse.Namespace`` (which DiT's own training files hold) is ever
    unpickled. Raises ``ValueError``, in one sentence, for a file that is missing, damaged, asks for more than that, or
    would unpack to more than its own size.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    zipped = _is_zip(path)
    if zipped:
        _refuse_bomb(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except BROKEN as error:
        raise ValueError(f"{path}: {_reason(error)}") from error
    if not isinstance(loaded, Mapping) or not all(isinstance(key, str) for key in loaded):
        raise ValueError(f"{path}: holds a {type(loaded).__name__}, where named tensors are expected")
    return loaded


def check_dense(path: Path, tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """The same as plain tensors; ``ValueError`` naming the first that is none or claims more than the file stores."""
    dense = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.layout != torch.strided:
            raise ValueError(f"{path}: '{name}' is no dense tensor of floating-point numbers")
        if not tensor.is_meta and tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"{path}: tensor '{name}' claims more numbers than the file stores")
        dense[name] = tensor.detach()
    return dense


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"  # torch's own test; a truncated one is still meant to be one


def _refuse_bomb(path: Path) -> None:
    """torch stores its entries as they are, so nothing of an honest file is larger unpacked than the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except BROKEN as error:
        raise ValueError(f"{path}: not a whole file ({error}); copy or download it again") from error
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError(
            f"{path}: would unpack to more than its own size, which no file of torch.save does; it is not opened"
        )


def _reason(error: BaseException) -> str:
    if isinstance(error, UnpicklingError):
        asked = re.search(r"GLOBAL ([\w.]+\.\w+)", str(error))
        what = (
            f"its pickle asks for {asked[1]}, which weights never need" if asked else "its pickle is not one of weights"
        )
        return f"{what}; it is not opened"
    return (
        f"not a whole file of torch.save ({' '.join(str(error).split())[:160] or type(error).__name__}); get it again"
    )
