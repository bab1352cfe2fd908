"""Muon: momentum whose matrices are made orthogonal before they move the weights, and AdamW for everything else.

torch.optim.Muon works in bfloat16 alone, which processors are slow at, looks at one matrix at a time, and cannot be
told on the device to make no update; so this one is ours.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

# Of the odd polynomial that brings singular values near one (Jordan et al. 2024, "Muon", appendix).
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_SMALLEST = 1e-7  # norm that is divided by


class Muon(torch.optim.AdamW):
    """Groups with ``matrices=True`` by Muon (``lr``, ``momentum``, ``weight_decay``), the others by fused AdamW.

    A step of a matrix (rows, columns) is orthogonal, times max(1, rows / columns)^0.5 times the rate; a kernel of a
    convolution is the matrix that has a row for each channel it gives. As fused AdamW, it reads ``found_inf`` on the
    device and changes nothing where that is one.

    Where there are several processes, all of the same gradients, each makes a share of the matrices orthogonal and they
    tell each other: all must step together.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step of all groups."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["matrices"]]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["matrices"]:
                self._step(group)
        return loss

    def _step(self, group: dict[str, Any]) -> None:
        bad = getattr(self, "found_inf", None)
        for parameters in _alike(group["params"]):
            nesterov = [self._moved(parameter, group["momentum"], bad) for parameter in parameters]
            updates = _orthogonal_together(torch.stack([_whole(update).flatten(1) for update in nesterov]))
            rows, columns = updates.shape[1:]
            rate = group["lr"] * max(1.0, rows / columns) ** 0.5
            for parameter, update in zip(parameters, updates, strict=True):
                move = (
                    rate * _spread(update.view(parameter.shape), parameter)
                    + group["lr"] * group["weight_decay"] * parameter
                )
                parameter.sub_(move if bad is None else torch.where(bad.bool(), torch.zeros_like(move), move))

    def _moved(self, parameter: Tensor, momentum: float, bad: Tensor | None) -> Tensor:
        """The gradient looked at from where the momentum, moved by it, would lead."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if "momentum" not in state:  # "step" is asked for wherever AdamW's states are read
            state["step"] = torch.zeros((), device=parameter.device)
            state["momentum"] = torch.zeros_like(parameter)
        state["step"] += 1 if bad is None else 1 - bad
        moved = state["momentum"].lerp(gradient, 1 - momentum)
        state["momentum"].copy_(moved if bad is None else torch.where(bad.bool(), state["momentum"], moved))
        return gradient.lerp(moved, momentum)


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices (n, rows, columns) with their singular values brought near one, within 0.7 to 1.2; float32.

    Newton and Schulz's iteration: in bfloat16 on a graphics card, in float32 elsewhere.
    """
    return iterated(matrices).float()


def iterated(matrices: Tensor) -> Tensor:
    """``orthogonal``, in the precision that it was computed in."""
    a, b, c = _COEFFICIENTS
    x = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) + _SMALLEST)
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = a * x + torch.baddbmm(square, square, square, beta=b, alpha=c) @ x
    return x.mT if tall else x


def _orthogonal_together(matrices: Tensor) -> Tensor:
    """``orthogonal`` of the matrices (n, rows, columns) that every process has, each computed by one of them."""
    world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if world == 1:
        return orthogonal(matrices)
    share = -(-len(matrices) // world)
    mine = matrices[share * dist.get_rank() :][:share]
    done = iterated(mine)
    filled = torch.cat([done, done.new_zeros(share - len(mine), *matrices.shape[1:])])
    together = filled.new_empty(world * share, *matrices.shape[1:])
    dist.all_gather_into_tensor(together, filled.contiguous())
    return together[: len(matrices)].float()


def _alike(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Those with a gradient, by shape: one product serves all of a shape."""
    shapes: dict[torch.Size, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            shapes.setdefault(parameter.shape, []).append(parameter)
    yield from shapes.values()


def _whole(x: Tensor) -> Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def _spread(update: Tensor, like: Tensor) -> Tensor:
    """The whole ``update``, which every process has, laid out as a parameter is."""
    if not isinstance(like, DTensor):
        return update
    whole = DTensor.from_local(update, like.device_mesh, [Replicate()] * like.device_mesh.ndim, run_check=False)
    return whole.redistribute(placements=like.placements)
