"""A model as the sampler asks it: in a precision, and told what to draw only once where it can be."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pixart.batch import Conditioning

Precision = Literal["fp32", "bf16", "fp16"]

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class InPrecision:
    """``model`` as its weights are (``fp32``), or under autocast to ``bf16`` or ``fp16``."""

    def __init__(self, model: nn.Module, device: torch.device, precision: Precision) -> None:
        self.model: Any = model
        self.device = device
        self.precision = precision

    def __call__(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """As the model."""
        with self._autocast():
            return self.model(x_t, t, cond)

    @property
    def prepare(self) -> Callable[..., Any] | None:
        """As the model's, in the same precision; None for a model without."""
        return self._prepare if hasattr(self.model, "prepare") else None

    def _prepare(self, *told: Any) -> Any:
        with self._autocast():
            return self.model.prepare(*told)

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision not in _AUTOCAST:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_AUTOCAST[self.precision])
