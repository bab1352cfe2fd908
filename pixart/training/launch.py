"""The processes of a run: how many there are, on what device, in what precision."""

import os
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.utils import ProjectConfiguration

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def make_accelerator(
    *, precision: Literal["fp32", "bf16", "fp16"], tf32: bool, deterministic: bool, tracker: str, run_dir: Path
) -> Accelerator:
    """The Accelerator of this process.

    Raises:
        ValueError: fp16 without a GPU, or a launcher that started more processes than came together.
    """
    on_cpu = not torch.cuda.is_available()
    if on_cpu and precision == "fp16":
        raise ValueError("precision=fp16 needs a GPU: set precision=fp32 or bf16")
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    # Without cpu=True Accelerate makes, of two CPU processes under a launcher, two runs of one process each.
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision=PRECISIONS[precision],
        log_with=None if tracker == "none" else tracker,
        project_config=ProjectConfiguration(project_dir=str(run_dir), logging_dir=str(run_dir / "logs")),
        kwargs_handlers=_handlers(),
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise ValueError(
            f"the launcher started {launched} processes and {accelerator.num_processes} came together: on CPU use "
            "'torchrun --nproc_per_node N train.py …' or 'accelerate launch --multi_gpu --num_processes N train.py …'"
        )
    return accelerator


def _handlers() -> list[Any]:
    return [
        DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
        InitProcessGroupKwargs(),
    ]
