"""Pieces copied to host memory, so that training may go on while they are written."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pixart.training.checkpoints.pieces import Piece


class Copied(NamedTuple):
    """Pieces as they were; ``wait`` before you look at them."""

    pieces: list[Piece]
    wait: Callable[[], None]


class HostCopy:
    """One copy of this rank's pieces, in memory that is kept from one time to the next.

    Page-locked where the pieces come from a GPU: the copy then runs in the order of its stream, and the host need not
    wait for it. The next copy goes where the last one lies, so that must have been written by then.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def __call__(self, pieces: list[Piece]) -> Copied:
        self._kept = {piece.name: self._place(piece) for piece in pieces}
        for piece in pieces:
            self._kept[piece.name].copy_(piece.tensor, non_blocking=True)
        copied = [piece._replace(tensor=self._kept[piece.name]) for piece in pieces]
        return Copied(copied, _end_of_copies(any(piece.tensor.is_cuda for piece in pieces)))

    def _place(self, piece: Piece) -> Tensor:
        kept, tensor = self._kept.get(piece.name), piece.tensor
        if kept is not None and (kept.shape, kept.dtype) == (tensor.shape, tensor.dtype):
            return kept
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)


def _end_of_copies(from_gpu: bool) -> Callable[[], None]:
    if not from_gpu:
        return lambda: None
    event = torch.cuda.Event()
    event.record()
    return event.synchronize
