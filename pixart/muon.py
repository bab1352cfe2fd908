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
        taken: Any = 1.0 if bad is None else 1 - bad  # share of the step: all, or none
        for parameters in _alike(group["params"]):
            nesterov = self._moved(parameters, group["momentum"], bad)
            updates = _orthogonal_together(torch.stack([_whole(update).flatten(1) for update in nesterov]))
            del nesterov  # as large as the parameters, and so are the moves
            rows, columns = updates.shape[1:]
            updates = updates * (group["lr"] * max(1.0, rows / columns) ** 0.5 * taken)
            moves = torch._foreach_mul(parameters, group["lr"] * group["weight_decay"] * taken)
            torch._foreach_add_(moves, [_spread(x.view(p.shape), p) for x, p in zip(updates, parameters, strict=True)])
            torch._foreach_sub_(parameters, moves)

    def _moved(self, parameters: list[Tensor], momentum: float, bad: Tensor | None) -> list[Tensor]:
        """The gradients looked at from where the momenta, moved by them, would lead; always finite where ``bad``."""
        for parameter in parameters:
            if "momentum" not in self.state[parameter]:  # "step" is asked for wherever AdamW's states are read
                self.state[parameter]["step"] = torch.zeros((), device=parameter.device)
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        steps, momenta = ([self.state[parameter][name] for parameter in parameters] for name in ("step", "momentum"))
        torch._foreach_add_(steps, 1 if bad is None else 1 - bad)
        gradients = [_gradient(p, x, bad) for p, x in zip(parameters, momenta, strict=True)]
        torch._foreach_lerp_(momenta, gradients, 1 - momentum)
        torch._foreach_lerp_(gradients, momenta, momentum)
        return gradients


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


def _gradient(parameter: Tensor, momentum: Tensor, bad: Tensor | None) -> Tensor:
    """A copy of its gradient; the momentum itself, which it does not move, where that is ``bad``."""
    assert parameter.grad is not None
    return parameter.grad.clone() if bad is None else torch.where(bad.bool(), momentum, parameter.grad)


def _whole(x: Tensor) -> Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def _spread(update: Tensor, like: Tensor) -> Tensor:
    """The whole ``update``, which every process has, laid out as a parameter is."""
    if not isinstance(like, DTensor):
        return update
    whole = DTensor.from_local(update, like.device_mesh, [Replicate()] * like.device_mesh.ndim, run_check=False)
    return whole.redistribute(placements=like.placements)
