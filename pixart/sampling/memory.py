"""How much memory drawing took."""

import re
import resource
import sys
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


def peak_memory(device: torch.device) -> int:
    """Bytes that this process held at most so far: of tensors on a GPU, of everything where it runs on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.is_file():  # what ``resource`` says may be of a process that started this one
        marked = re.search(r"VmHWM:\s+(\d+)", _STATUS.read_text())
        if marked is not None:
            return int(marked[1]) * 1024
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024
