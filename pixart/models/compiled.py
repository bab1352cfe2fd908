"""Compilation of the blocks: one graph for all of them and for every size, made when the first one runs."""

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from pixart.models.blocks import PixArtBlock, Run, run_through

logger = logging.getLogger(__name__)

VARIANTS = 32  # of the graph: in training or not, with gradients or not, autocast or not, batches of one or of more
Backend = str | Callable[..., Any]


def compile_blocks(model: nn.Module, device: torch.device | str, *, backend: Backend = "inductor") -> None:
    """Let the blocks of ``model`` run compiled on ``device``; without a compiler for it they stay, with one log line.

    All blocks, of other models too, share one graph whose sizes are symbols, so that batches, buckets and captions of
    any size use it. A batch of one image is a graph of its own, and so are training, evaluation and autocast. What
    recomputation is configured becomes part of the graph; hooks, such as those that gather shards, stay outside.
    Names of parameters and modules are what they were.

    Args:
        model: a ``PixArt``; wrapped or not, on any device.
        device: where it will run.
        backend: of ``torch.compile``.
    """
    lacking = None if backend != "inductor" else missing_compiler(torch.device(device).type)
    if lacking is not None:
        logger.warning("compile=true has no effect: %s", lacking)
        return
    for block in model.modules():
        if isinstance(block, PixArtBlock):
            block.run = _compiled(backend)


@cache
def _compiled(backend: Backend) -> Run:
    torch._dynamo.config.recompile_limit = max(VARIANTS, torch._dynamo.config.recompile_limit)
    # It would cut a graph where DDP sends gradients off, for graphs as large as a model; these are as small as a block.
    torch._dynamo.config.optimize_ddp = False
    compiled: Run = torch.compile(run_through, dynamic=True, backend=backend)
    return compiled


@cache
def missing_compiler(device_type: str) -> str | None:
    """What ``torch.compile`` lacks on this machine, as half a sentence; None where nothing is missing."""
    if device_type == "cuda":
        return None if torch.utils._triton.has_triton() else "there is no triton for this GPU"
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "there is no C++ compiler (install g++, or set CXX)"
    return None
