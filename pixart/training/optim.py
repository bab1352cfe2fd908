"""The optimizers and their learning rate."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pixart.muon import Muon

LrDecay = Literal["none", "linear", "cosine"]
_FALLING = {
    "none": lambda _: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: (1.0 + math.cos(math.pi * done)) / 2,
}


def rate_at(step: int, *, steps: int, warmup_steps: int, decay: LrDecay) -> float:
    """The learning rate as a share of its peak: a linear warm-up, then constant or falling to zero at ``steps``.

    A function of the step alone: neither resume nor world size can shift it.
    """
    done = min(1.0, max(0, step - warmup_steps) / max(1, steps - warmup_steps))
    return min(1.0, (step + 1) / max(1, warmup_steps)) * _FALLING[decay](done)


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay is meant for this tensor: matrices and kernels, not biases, tables or embeddings."""
    return parameter.ndim >= 2 and not name.endswith(("scale_shift_table", "embedding_table.weight"))


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon is meant for this tensor: the blocks' linear maps, not what leads into or out of the blocks."""
    return name.startswith("blocks.") and parameter.ndim == 2 and decays(name, parameter)


def make_optimizer(
    model: nn.Module,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decay: Literal["matrices", "every_tensor"],
    matrix_lr: float | None = None,
    momentum: float = 0.95,
) -> torch.optim.AdamW:
    """Fused AdamW in two groups, decayed and spared; ``every_tensor`` spares none, as the official code.

    With ``matrix_lr`` the blocks' matrices make a third group, which Muon moves at that rate with ``momentum``. Every
    group keeps its own peak under ``peak_lr``.
    """
    groups: dict[str, dict[str, Any]] = {
        "decayed": {"weight_decay": weight_decay, "lr": lr, "matrices": False},
        "spared": {"weight_decay": 0.0, "lr": lr, "matrices": False},
        "muon": {"weight_decay": weight_decay, "lr": matrix_lr, "matrices": True, "momentum": momentum},
    }
    members: dict[str, list[Tensor]] = {kind: [] for kind in groups}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_decayed = decay == "every_tensor" or decays(name, parameter)
            muon = matrix_lr is not None and is_matrix(name, parameter)
            members["muon" if muon else "decayed" if is_decayed else "spared"].append(parameter)
    filled = [{"params": members[kind], **group, "peak_lr": group["lr"]} for kind, group in groups.items()]
    make = torch.optim.AdamW if matrix_lr is None else Muon
    return make([group for group in filled if group["params"]], lr=lr, betas=betas, eps=eps, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    """The rate of each group: ``share`` of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = share * group["peak_lr"]


def skip_if(optimizer: torch.optim.Optimizer, bad: Tensor) -> None:
    """Let the next step of a fused optimizer do nothing where ``bad`` (a 0-d bool on the device) is true.

    Fused kernels read ``found_inf`` on the device, as they do for a gradient scaler: the host need not wait to know.
    """
    inner: Any = getattr(optimizer, "optimizer", optimizer)  # Accelerate wraps
    inner.found_inf = bad.float()
