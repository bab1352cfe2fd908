"""Tensors into a safetensors file one after the other, so that their copies are never held all at once."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

KINDS = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str], dtype: torch.dtype | None = None
) -> None:
    """Write ``tensors`` of floating-point numbers, each brought to the CPU (and to ``dtype``) as its turn comes.

    The format: the length of a header, the header as JSON (kind, shape and place of each tensor), then the numbers.
    Wider kinds come first, so that each number lies at a multiple of its size, and names in their own order, so that
    equal weights make equal files.
    """
    kinds = {name: dtype or tensor.dtype for name, tensor in tensors.items()}
    order = sorted(tensors, key=lambda name: (-kinds[name].itemsize, name))
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name in order:
        start, end = end, end + tensors[name].numel() * kinds[name].itemsize
        header[name] = {"dtype": KINDS[kinds[name]], "shape": list(tensors[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            plain = tensors[name].detach().to("cpu", kinds[name]).contiguous()
            file.write(plain.view(-1).view(torch.uint8).numpy().data)
