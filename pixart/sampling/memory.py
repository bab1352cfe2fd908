"""How much memory drawing took."""

import resource
import sys

import torch


def peak_memory(device: torch.device) -> int:
    """Bytes that this process held at most so far: of tensors on a GPU, of everything where it runs on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024
