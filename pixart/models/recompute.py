"""What of a block's activations training keeps for the backward pass: all, the dear ones, or none of them."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from pixart.models.linear import OPERATOR

Checkpointing = Literal["none", "blocks", "selective"]
CHECKPOINTING: tuple[str, ...] = get_args(Checkpointing)

# What takes long for the bytes that it leaves behind: matrix products, and attention in each of torch's kernels.
DEAR = frozenset({OPERATOR}) | frozenset(
    f"aten::{name}"
    for name in (
        "mm", "addmm", "_scaled_mm", "bmm", "baddbmm", "linear", "convolution",
        "_scaled_dot_product_flash_attention", "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_fused_attention_overrideable",
        "_flash_attention_forward", "_efficient_attention_forward",
    )
)  # fmt: skip


def _policy(_: Any, operator: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
    """Keep what is dear; norms, modulation, GELU, casts and residuals are cheap, and as large."""
    schema = getattr(operator, "_schema", None)  # operators that take functions have none
    name = "" if schema is None else schema.name
    if name in DEAR or name.startswith("xformers"):  # of xformers nothing but attention is used
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


# A block draws nothing: the host need not save every GPU's generator before each, and set it back twice.
_checkpoint = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)


def through(checkpointing: str) -> Callable[..., Tensor]:
    """How to run a part of a model: ``through(checkpointing)(part, *inputs)`` is ``part(*inputs)``, to the bit.

    "none" keeps every activation; "blocks" keeps the inputs and runs the part again in the backward pass; "selective"
    keeps the results of matrix products and attention besides, so that only what is cheap is computed twice.
    A part must draw no random numbers.
    """
    if checkpointing == "none":
        return _plainly
    if checkpointing == "blocks":
        return _checkpoint
    return partial(_checkpoint, context_fn=partial(create_selective_checkpoint_contexts, _policy))


def _plainly(part: Callable[..., Tensor], *inputs: Any) -> Tensor:
    return part(*inputs)
