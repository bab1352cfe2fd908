"""The guard against updates that are not finite: masked on the device at once, named by the host at the next log."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Guard:
    """Counts steps whose gradient is not finite, without a host sync.

    The gradient norm is the same on every rank, so all ranks mask the same step.
    """

    def __init__(self, device: torch.device):
        self.bad_steps = torch.zeros((), dtype=torch.int64, device=device)
        self.first_bad_k = torch.full((), -1, dtype=torch.int64, device=device)

    def watch(self, norm: Tensor, *, k: int) -> Tensor:
        """Whether this step must not be taken: a 0-d bool on the device."""
        bad = ~torch.isfinite(norm)
        self.bad_steps += bad
        self.first_bad_k.copy_(torch.where(bad & (self.first_bad_k < 0), k, self.first_bad_k))
        return bad

    def found(self) -> tuple[int, int]:
        """How many bad steps since the last call, and the global batch of the first; one host sync."""
        count, first = int(self.bad_steps), int(self.first_bad_k)
        self.bad_steps.zero_()
        self.first_bad_k.fill_(-1)
        return count, first


def first_bad_module(model: nn.Module, forward: Callable[[], Any]) -> str | None:
    """The name of the first module whose output is not finite while ``forward`` runs, None if all are."""
    found: list[str] = []

    def hook(name: str) -> Callable[..., None]:
        def check(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not found and isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
                found.append(name)

        return check

    handles = [module.register_forward_hook(hook(name)) for name, module in model.named_modules() if name]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None
