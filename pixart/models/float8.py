"""The blocks' large matrix products in float8, by torchao (formats: Micikevicius et al. 2022, arXiv 2209.05433)."""

import dataclasses
import importlib.util
import logging
from typing import Literal

import torch
from torch import nn

from pixart.models.blocks import PixArtBlock

Recipe = Literal["none", "rowwise", "tensorwise"]

_TESTED = "torchao==0.18.0"
_CAPABLE = (8, 9)  # Ada and Hopper
_MULTIPLE = 16  # of which its kernels want a layer's sizes

logger = logging.getLogger(__name__)


def check_float8(recipe: str, device: torch.device | str, *, precision: str) -> None:
    """``ValueError`` where ``recipe`` cannot be followed on ``device`` with the rest in ``precision``."""
    if recipe == "none":
        return
    device = torch.device(device)
    if device.type == "cuda":
        _check_card(recipe, device, precision)
    if importlib.util.find_spec("torchao") is None:
        raise ValueError(f"float8={recipe} needs the package torchao: pip install {_TESTED}, or set float8=none")


def _check_card(recipe: str, device: torch.device, precision: str) -> None:
    found = torch.cuda.get_device_capability(device)
    if found < _CAPABLE:
        raise ValueError(
            f"float8={recipe} needs a GPU of compute capability {_CAPABLE[0]}.{_CAPABLE[1]} or more, as Ada and Hopper "
            f"have, and this one has {found[0]}.{found[1]}: set float8=none"
        )
    if precision != "bf16":
        raise ValueError(
            f"float8={recipe} goes with precision=bf16, not {precision}: its products come out in bfloat16"
        )


def use_float8(model: nn.Module, device: torch.device | str, *, recipe: Recipe) -> None:
    """Let the blocks of ``model`` multiply in float8, forward and backward; weights and their names stay as they are.

    Attention's projections and the MLP are converted: layers over image tokens, nearly all of the work. Those over
    captions, whose tokens are packed to any number, attention itself and what is outside the blocks stay in their
    precision. Off a GPU the values are rounded to float8 and multiplied as before, which shows what training comes to.

    Args:
        model: a ``PixArt``, not yet wrapped or compiled.
        device: where it will run, see ``check_float8``.
        recipe: "rowwise" scales each row by itself, "tensorwise" a whole tensor at once: faster and coarser.

    Raises:
        ValueError: a layer's sizes are no multiples of 16.
    """
    if recipe == "none":
        return
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    emulated = torch.device(device).type != "cuda"
    if emulated:
        logger.warning("float8=%s is emulated on %s: its rounding, and no gain in speed", recipe, device)
    config = dataclasses.replace(
        Float8LinearConfig.from_recipe_name(recipe), emulate=emulated, pad_inner_dim=not emulated
    )
    for block in [module for module in model.modules() if isinstance(module, PixArtBlock)]:
        for name, layer in block.named_modules():
            if _over_image_tokens(layer, name) and (layer.in_features % _MULTIPLE or layer.out_features % _MULTIPLE):
                raise ValueError(
                    f"float8={recipe} needs sizes that are multiples of {_MULTIPLE}, and a block's {name} has "
                    f"{layer.in_features} x {layer.out_features}: choose another model.dim, or set float8=none"
                )
        convert_to_float8_training(block, module_filter_fn=_over_image_tokens, config=config)


def _over_image_tokens(layer: nn.Module, name: str) -> bool:
    return isinstance(layer, nn.Linear) and not name.startswith(("adaLN_modulation", "cross_attn.kv_linear"))
