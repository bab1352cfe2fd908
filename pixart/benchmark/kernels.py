"""What a device is busy with during some work, by kind of kernel or operator: where the rest of a step's time goes."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from pixart.benchmark.device import settle

# Parts of their names; each is of the first kind that it has one of. Generated kernels come first, since a GPU's are
# named by what they fuse; cuDNN's backward of attention is three.
ON_GPU = {
    "generated kernels": ("triton_poi", "triton_red", "triton_per", "triton_for"),
    "attention": ("sdpa", "flash", "fmha", "compute_dot_do_o", "convert_dq", "attention"),
    "matrix products": ("nvjet", "gemm", "cutlass", "xmma", "splitk", "wgrad", "dgrad"),
    "optimizer": ("multi_tensor_apply",),
    "copies and fills": ("memcpy", "memset"),
}
ON_CPU = {
    "generated kernels": ("compiledfxgraph",),
    "attention": ("attention",),
    "matrix products": ("::mm", "addmm", "::bmm", "baddbmm", "linear_pointwise", "convolution"),
    "optimizer": ("fused_adam", "foreach"),
    "copies and fills": ("copy_", "fill_", "zero_", "aten::cat"),
}
OTHERS = "all others"


class Event(Protocol):
    """Of ``torch.profiler``, as far as it is read here."""

    name: str
    device_type: Any
    is_user_annotation: bool
    self_cpu_time_total: float  # microseconds, as the next
    self_device_time_total: float


def by_kind(events: Iterable[Event], device: torch.device) -> dict[str, float]:
    """Seconds of those ``events`` that keep ``device`` busy by kind, the longest first.

    On the CPU each counts without those that it called; on a GPU names for stretches of time are none.
    """
    cuda = device.type == "cuda"
    spent: dict[str, float] = {}
    for event in events:
        if cuda and (event.device_type != DeviceType.CUDA or event.is_user_annotation):
            continue
        kind = _kind(event.name.lower(), ON_GPU if cuda else ON_CPU)
        microseconds = event.self_device_time_total if cuda else event.self_cpu_time_total
        spent[kind] = spent.get(kind, 0.0) + microseconds / 1e6
    return dict(sorted(spent.items(), key=lambda item: -item[1]))


def profiled(work: Callable[[], object], device: torch.device) -> dict[str, float]:
    """The same of doing ``work`` once."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    settle(device)
    with profile(activities=activities) as profiler:
        work()
        settle(device)
    return by_kind(profiler.events(), device)


def _kind(name: str, kinds: Mapping[str, tuple[str, ...]]) -> str:
    return next((kind for kind, parts in kinds.items() if any(part in name for part in parts)), OTHERS)
