"""The device that is measured: which it is, how precise, how to wait for it, what it holds and how to empty it."""

import gc
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import nn

Choice = Literal["auto", "cpu", "cuda"]
Wanted = Literal["auto", "fp32", "bf16", "fp16"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick(choice: Choice) -> torch.device:
    """The device asked for; ``auto`` is CUDA where there is one. ``ValueError`` where there is none."""
    if choice == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda, and torch finds no such device here: take device=auto or device=cpu")
    return torch.device("cuda" if choice != "cpu" and torch.cuda.is_available() else "cpu")


def precision_on(device: torch.device, wanted: Wanted) -> str:
    """``auto`` is bf16 on a GPU that computes in it, fp16 on another GPU and fp32 on the CPU."""
    if wanted != "auto":
        return wanted
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Matrix products in ``precision``, weights as they are."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


def settle(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def emptied() -> None:
    """Give back what nobody holds any more, to other processes on the GPU too."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def forget_compiled() -> None:
    """Forget every compiled graph and whatever it held: what ran before shall make nothing larger or more general.

    From the second size on ``torch.compile`` would take sizes for symbols, in code that is slower than a size's own.
    """
    torch._dynamo.reset()
    emptied()


def held(module: nn.Module, optimizer: torch.optim.Optimizer | None) -> int:
    """Bytes of the parameters, their gradients and the optimizer's state."""
    tensors = [p for p in module.parameters()] + [p.grad for p in module.parameters() if p.grad is not None]
    if optimizer is not None:
        tensors += [x for state in optimizer.state.values() for x in state.values() if isinstance(x, torch.Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
