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

from pixart.foreign_words import quoted
from pixart.formats.records import refuse_damaged, refuse_misfits
from pixart.formats.tensor_file import KINDS

# What torch and the pickle machine raise on bytes that are not what they should be.
BROKEN = (
    UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError,
    AssertionError, StructError, zipfile.BadZipFile, MemoryError, OverflowError,
)  # fmt: skip


def load_torch(path: Path) -> Mapping[str, Any]:
    """The dictionary that ``torch.save`` wrote to ``path``, its tensors still on the disk where the file allows it.

    Nothing but tensors, containers, numbers and ``argparse.Namespace`` (which DiT's own training files hold) is ever
    unpickled. Raises ``ValueError``, in one sentence, for a file that is missing, damaged (checksums and lengths of its
    records are looked at), asks for more than that, or would unpack to more than its own size.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    zipped = _is_zip(path)
    if zipped:
        with _archive(path) as archive:
            refuse_damaged(path, archive)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except BROKEN as error:
        raise ValueError(f"{path}: {_reason(error)}") from error
    if zipped:
        with _archive(path) as archive:
            refuse_misfits(path, archive)
    if not isinstance(loaded, Mapping) or not all(isinstance(key, str) for key in loaded):
        raise ValueError(f"{path}: holds a {type(loaded).__name__}, where named tensors are expected")
    return loaded


def check_dense(path: Path, tensors: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The same as plain tensors; ``ValueError`` naming the first that is none or claims more than the file stores."""
    dense = {}
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise ValueError(f"{path}: one of its tensors is named {quoted(repr(name))}, which is no text")
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.dtype not in KINDS:
            found = quoted(str(tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__))
            raise ValueError(
                f"{path}: {quoted(name)} is no dense tensor of floating-point numbers in 16, 32 or 64 bits ({found})"
            )
        if not tensor.is_meta and tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"{path}: tensor {quoted(name)} claims more numbers than the file stores")
        dense[name] = tensor.detach()
    return dense


def check_values(path: Path, tensors: Mapping[str, Tensor], *, allow_nonfinite: bool) -> None:
    """``ValueError`` naming the first tensor without numbers, or with one that float32 cannot hold."""
    limit = torch.finfo(torch.float32).max
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise ValueError(f"{path}: tensor {quoted(name)} has a shape and no numbers (it was saved from 'meta')")
        if allow_nonfinite or not tensor.numel():
            continue
        low, high = (float(end) for end in tensor.aminmax())  # both are NaN where any number is
        if not (-limit <= low and high <= limit):
            what = "numbers beyond float32" if abs(low) < torch.inf and abs(high) < torch.inf else "NaN or infinity"
            raise ValueError(
                f"{path}: tensor {quoted(name)} holds {what}: take a snapshot from before they came, or read it all "
                "the same with allow_nonfinite=true (tools/convert.py)"
            )


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"  # torch's own test; a truncated one is still meant to be one


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except BROKEN as error:
        raise ValueError(f"{path}: not a whole file; copy or download it again") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, UnpicklingError):
        asked = re.search(r"GLOBAL ([\w.]+\.\w+)", str(error))
        what = (
            f"its pickle asks for {asked[1]}, which weights never need" if asked else "its pickle is not one of weights"
        )
        return f"{what}; it is not opened"
    missing = re.search(r"failed locating file ([\w./]+?):", str(error))
    why = f" (its record {missing[1]} is missing)" if missing else ""
    return f"not a whole file of torch.save{why}; get it again"
