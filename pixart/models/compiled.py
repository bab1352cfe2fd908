"""Compilation of the blocks: one graph for all of them, and mostly for every size, made when the first one runs."""

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from pixart.models.attention import KeysValues, Text
from pixart.models.blocks import PixArtBlock, Run, run_through
from pixart.models.half_compiled import clear_half_compiled

logger = logging.getLogger(__name__)

VARIANTS = 32  # of the graph: in training or not, with gradients or not, autocast or not, batches of one or of more
Backend = str | Callable[..., Any]
Options = tuple[tuple[str, Any], ...]


def compile_blocks(
    model: nn.Module,
    device: torch.device | str,
    *,
    static: bool = False,
    backend: Backend = "inductor",
    options: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Let the blocks of ``model`` run compiled on ``device``; without a compiler for it they stay, with one log line.

    All blocks, of other models too, share one graph whose shapes are dynamic, so that batches, buckets and captions of
    any size use it, but for training with ``static``. A batch of one image is a graph of its own, and so are training,
    evaluation and autocast. What recomputation is configured becomes part of the graph; hooks, such as those that
    gather shards, stay outside. Names of parameters and modules are what they were.

    Args:
        model: a ``PixArt``; wrapped or not, on any device.
        device: where it will run.
        static: on a GPU, make a graph of training for each shape of ``x`` (N, T, D) in place of one for all: kernels
            made for a shape are faster. The number of caption tokens stays a symbol.
        backend: of ``torch.compile``.
        options: inductor's own, see ``torch._inductor.list_options()``.
    """
    kind = torch.device(device).type
    lacking = None if backend != "inductor" else missing_compiler(kind)
    if lacking is not None:
        logger.warning("compile=true has no effect: %s", lacking)
        return
    if kind == "cpu" and backend == "inductor":
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns of CUDA that is not there
        clear_half_compiled()
    chosen = tuple(sorted(options.items()))
    run = _at_its_shape(backend, chosen) if static and kind == "cuda" else _compiled(backend, chosen, dynamic=True)
    for block in model.modules():
        if isinstance(block, PixArtBlock):
            block.run = run


@cache
def _at_its_shape(backend: Backend, options: Options) -> Run:
    """Up to ``VARIANTS`` graphs, which of them runs depends on the shape alone, and not on those that came before: a
    resumed run computes the same.
    """
    at_one, at_any = (_compiled(backend, options, dynamic=dynamic) for dynamic in (False, True))

    def run(block: PixArtBlock, x: Tensor, t: Tensor, text: Text | KeysValues | None) -> Tensor:
        if not (block.training and torch.is_grad_enabled()):
            return at_any(block, x, t, text)
        for ragged in _ragged(text):
            torch._dynamo.maybe_mark_dynamic(ragged, 0)
        return at_one(block, x, t, text)

    return run


def _ragged(text: Text | KeysValues | None) -> Iterator[Tensor]:
    """What has as many rows as the captions have tokens, whose number is another in every batch."""
    if isinstance(text, Text) and text.y.ndim == 2:
        yield from (text.y, text.padding.places, text.padding.counts)


@cache
def _compiled(backend: Backend, options: Options, *, dynamic: bool) -> Run:
    torch._dynamo.config.recompile_limit = max(VARIANTS, torch._dynamo.config.recompile_limit)
    # It would cut a graph where DDP sends gradients off, for graphs as large as a model; these are as small as a block.
    torch._dynamo.config.optimize_ddp = False
    compiled: Run = torch.compile(run_through, dynamic=dynamic, backend=backend, options=dict(options) or None)
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
