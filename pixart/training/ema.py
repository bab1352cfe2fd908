"""The exponential moving average of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Ema:
    """A float32 average of a model's parameters; buffers follow as they are.

    Update n (from 0) moves the average towards the weights by 1 - d(n), with d(n) = ``decay``, or with ``warmup``
    d(n) = min(decay, n / (10 + n)), so that the first update copies.

    Args:
        model: whose tensors are averaged; it may sit on any device.
        decay: in [0, 1).
        warmup: start from a short memory.
    """

    def __init__(self, model: nn.Module, *, decay: float, warmup: bool):
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self.average = {name: p.detach().float().clone() for name, p in model.named_parameters()}
        self.buffers = {name: b.detach().clone() for name, b in self._persistent(model)}

    @staticmethod
    def _persistent(model: nn.Module) -> list[tuple[str, Tensor]]:
        kept = model.state_dict(keep_vars=True)
        return [(name, buffer) for name, buffer in model.named_buffers() if name in kept]

    def current_decay(self) -> float:
        """d(n) of the update to come."""
        n = self.updates
        return min(self.decay, n / (10 + n)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards the weights of ``model``, once an optimizer step."""
        weights = [p.detach().float() for _, p in model.named_parameters()]
        torch._foreach_lerp_(list(self.average.values()), weights, 1.0 - self.current_decay())
        for name, buffer in self._persistent(model):
            self.buffers[name].copy_(buffer)
        self.updates += 1

    @contextmanager
    def weights(self, model: nn.Module) -> Iterator[nn.Module]:
        """``model`` with the averaged weights, in evaluation mode; both are put back afterwards, come what may."""
        training = model.training
        kept = {name: p.detach().clone() for name, p in model.named_parameters()}
        try:
            with torch.no_grad():
                for name, p in model.named_parameters():
                    p.copy_(self.average[name])
            yield model.eval()
        finally:
            with torch.no_grad():
                for name, p in model.named_parameters():
                    p.copy_(kept[name])
            model.train(training)

    def tensors(self) -> dict[str, Tensor]:
        """What a snapshot holds: the averages and buffers under the names of the model's state dict."""
        return {**self.average, **self.buffers}

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average, "buffers": self.buffers, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state["average"].items():
            self.average[name].copy_(value)
        for name, value in state["buffers"].items():
            self.buffers[name].copy_(value)
        self.updates = int(state["updates"])
