"""The optimizer and its learning rate."""

from typing import Any, Literal

import torch
from torch import Tensor, nn


def learning_rate(step: int, *, peak: float, warmup_steps: int) -> float:
    """Constant after a linear warm-up. A function of the step alone: neither resume nor world size can shift it."""
    return peak * min(1.0, (step + 1) / max(1, warmup_steps))


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay is meant for this tensor: matrices and kernels, not biases, tables or embeddings."""
    return parameter.ndim >= 2 and not name.endswith(("scale_shift_table", "embedding_table.weight"))


def make_optimizer(
    model: nn.Module,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decay: Literal["matrices", "every_tensor"],
) -> torch.optim.AdamW:
    """Fused AdamW in two groups, decayed and spared; ``every_tensor`` spares none, as the official code."""
    parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [p for name, p in parameters if decay == "every_tensor" or decays(name, p)]
    spared = [p for name, p in parameters if not (decay == "every_tensor" or decays(name, p))]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, eps=eps, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """One rate for all groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def skip_if(optimizer: torch.optim.Optimizer, bad: Tensor) -> None:
    """Let the next step of a fused optimizer do nothing where ``bad`` (a 0-d bool on the device) is true.

    Fused kernels read ``found_inf`` on the device, as they do for a gradient scaler: the host need not wait to know.
    """
    inner: Any = getattr(optimizer, "optimizer", optimizer)  # Accelerate wraps
    inner.found_inf = bad.float()
