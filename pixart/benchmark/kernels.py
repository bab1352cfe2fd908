"""What a GPU is busy with during some work, by kind of kernel: where the rest of a step's time goes."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from pixart.benchmark.device import settle

# Parts of their names; a kernel is of the first kind that it has one of. Compiled kernels come first, since they are
# named by what they fuse; cuDNN's backward of attention is three.
KINDS = {
    "compiled kernels": ("triton_poi", "triton_red", "triton_per", "triton_for"),
    "attention": ("sdpa", "flash", "fmha", "compute_dot_do_o", "convert_dq", "attention"),
    "matrix products": ("nvjet", "gemm", "cutlass", "xmma", "splitk", "wgrad", "dgrad"),
    "optimizer": ("multi_tensor_apply",),
    "copies and fills": ("memcpy", "memset"),
}
OTHERS = "other kernels"


class Event(Protocol):
    """Of ``torch.profiler``, as far as it is read here."""

    name: str
    device_type: Any
    is_user_annotation: bool
    self_device_time_total: float  # microseconds


def by_kind(events: Iterable[Event]) -> dict[str, float]:
    """Seconds of the kernels among ``events`` by kind, the longest first; names for stretches of time are none."""
    spent: dict[str, float] = {}
    for event in events:
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation:
            name = event.name.lower()
            kind = next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), OTHERS)
            spent[kind] = spent.get(kind, 0.0) + event.self_device_time_total / 1e6
    return dict(sorted(spent.items(), key=lambda item: -item[1]))


def profiled(work: Callable[[], object], device: torch.device) -> dict[str, float]:
    """The same of doing ``work`` once."""
    settle(device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        work()
        settle(device)
    return by_kind(profiler.events())
