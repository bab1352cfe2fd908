"""How much of the device's power a run uses: operations of its batches, beside the most that the device can do."""

import re
from typing import Any

import torch
from torch import nn

from pixart.batch import Batch
from pixart.models.flops import training_flops

# Dense half-precision TFLOP/s by the vendors' data sheets: bf16, or fp16 where there is no bf16. The first whose words
# are in the device's name counts.
PEAKS = {
    "H100 NVL": 835.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "H200": 989.0,
    "GH200": 989.0,
    "B200": 2250.0,
    "A100": 312.0,
    "A800": 312.0,
    "H800": 989.0,
    "A40": 149.7,
    "A10G": 70.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "V100": 125.0,
    "T4": 65.0,
    "RTX 5090": 209.5,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}


def peak_tflops(device: torch.device) -> float | None:
    """The dense peak in half precision of one ``device``, None where it is not known."""
    return None if device.type != "cuda" else peak_of(torch.cuda.get_device_name(device))


def peak_of(name: str) -> float | None:
    """The same by the name that CUDA gives the device."""
    return next((peak for part, peak in PEAKS.items() if re.search(rf"\b{part}\b", name)), None)


def work(model: nn.Module, batch: Batch) -> int:
    """Operations of a forward and backward of ``model``, a ``PixArt``; a caption counts with its real tokens.

    To be asked while the batch lies in the host's memory, or it waits for the device.
    """
    config: Any = model.config
    images, _, height, width = batch.noise.shape
    return training_flops(
        config,
        images=images,
        image_tokens=height * width // config["patch_size"] ** 2,
        text_tokens=0 if batch.mask is None else int(batch.mask.sum()),
    )


def used(flops: int, seconds: float, peak: float | None) -> dict[str, float]:
    """``tflops`` that a device did each second, and ``mfu``, their share of its peak, where that is known."""
    tflops = flops / seconds / 1e12
    return {"tflops": tflops} if peak is None else {"tflops": tflops, "mfu": tflops / peak}
