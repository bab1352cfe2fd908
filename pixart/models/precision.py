"""The borders of autocast."""

from contextlib import AbstractContextManager, nullcontext

import torch


def as_given(device: torch.device) -> AbstractContextManager[object]:
    """Inside, autocast leaves precisions as they are; the meta device knows no autocast."""
    if device.type == "meta":
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
