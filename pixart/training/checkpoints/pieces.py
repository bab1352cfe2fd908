"""Tensors, sharded or not, in safetensors files: one a rank, each piece once, read again by any number of ranks.

Who writes what, and who reads what, is planned by torch.distributed.checkpoint; the files are as its
HuggingFaceStorageWriter makes them. That one holds a whole file in memory before it is written: here one piece follows
the other, and the checksum is taken on the way.
"""

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, WriteItem

from pixart.training.processes.ranks import Ranks

KINDS = {
    torch.float64: "F64", torch.int64: "I64", torch.float32: "F32", torch.int32: "I32", torch.bfloat16: "BF16",
    torch.float16: "F16", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_CHUNK = 1 << 24  # bytes hashed and written at a time


class Piece(NamedTuple):
    """What one rank holds of a tensor."""

    name: str
    offsets: tuple[int, ...]  # of its first element in the whole tensor
    tensor: Tensor


class Stored(NamedTuple):
    """What a checkpoint says of a whole tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class Division:
    """Which rank writes which pieces; thought out once for tensors of the same names, shapes and layout."""

    def __init__(self, ranks: Ranks):
        self.ranks = ranks
        self._like: object = None
        self._mine: SavePlan | None = None

    def mine(self, tensors: dict[str, Tensor]) -> list[Piece]:
        """The pieces of ``tensors`` that this rank writes, not copied; all ranks call it with the same names.

        What all ranks hold alike is written by one, each taking a part of about the same size.
        """
        planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        planner.set_up_planner(tensors, is_coordinator=self.ranks.is_first)
        like = [(name, t.shape, t.dtype, getattr(t, "placements", None)) for name, t in tensors.items()]
        if self._mine is None or like != self._like:
            plans, _ = planner.create_global_plan(self.ranks.gathered(planner.create_local_plan()))
            self._mine, self._like = plans[self.ranks.rank], like
        return [piece for item in self._mine.items if (piece := _piece(planner, item, tensors)) is not None]


def _piece(planner: DefaultSavePlanner, item: WriteItem, tensors: Mapping[str, Tensor]) -> Piece | None:
    """None for nothing of something: the share of a rank that a short tensor did not reach."""
    data = planner.resolve_data(item)
    assert isinstance(data, Tensor)
    assert item.tensor_data is not None
    if data.numel() == 0 and tensors[item.index.fqn].numel():
        return None
    return Piece(item.index.fqn, tuple(item.tensor_data.chunk.offsets), data.detach())


def write_pieces(path: Path, pieces: list[Piece]) -> str:
    """Write ``pieces``, of one name each, see that they are on the disk, and return the SHA-256 of the file."""
    order = sorted(pieces, key=lambda piece: (-piece.tensor.itemsize, piece.name))  # so that all are aligned
    digest = hashlib.sha256()
    with path.open("wb") as file:
        header = _header(order)
        digest.update(header)
        file.write(header)
        for piece in order:
            content = _content(piece.tensor)
            for start in range(0, len(content), _CHUNK):
                digest.update(content[start : start + _CHUNK])
                file.write(content[start : start + _CHUNK])
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _content(tensor: Tensor) -> memoryview:
    if tensor.numel() == 0:  # with strides of which no view of bytes can be made
        return memoryview(b"")
    return tensor.to("cpu").contiguous().view(-1).view(torch.uint8).numpy().data


def _header(order: list[Piece]) -> bytes:
    offsets = {piece.name: {"saved_offsets": list(piece.offsets)} for piece in order}
    assert len(offsets) == len(order), "a rank holds one piece of a tensor"
    header: dict[str, object] = {
        "__metadata__": {"DCP_SHARDING_INFO": json.dumps(offsets), "DCP_VERSION": "1.0", "format": "pt"}
    }
    end = 0
    for name, _, tensor in order:
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": KINDS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


class PiecesReader:
    """The tensors in a folder of such files."""

    def __init__(self, folder: Path):
        self._reader = HuggingFaceStorageReader(str(folder))
        self._metadata: Metadata = self._reader.read_metadata()
        self._reader.set_up_storage_reader(self._metadata, is_coordinator=True)

    def stored(self) -> dict[str, Stored]:
        """Every whole tensor's shape and type."""
        found = {}
        for name, told in self._metadata.state_dict_metadata.items():
            assert isinstance(told, TensorStorageMetadata)
            found[name] = Stored(tuple(told.size), told.properties.dtype)
        return found

    def read_into(self, tensors: dict[str, Tensor]) -> None:
        """Fill ``tensors`` in place, of a sharded one what this rank holds; each rank reads for itself."""
        planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        planner.set_up_planner(tensors, self._metadata, is_coordinator=True)
        self._reader.read_data(planner.create_local_plan(), planner).wait()

    def read(self) -> dict[str, Tensor]:
        """Everything, whole, on the CPU."""
        tensors = {name: torch.empty(told.shape, dtype=told.dtype) for name, told in self.stored().items()}
        self.read_into(tensors)
        return tensors
