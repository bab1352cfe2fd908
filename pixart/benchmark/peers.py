"""Our transformer and diffusers', of one shape and the same weights, plain and compiled."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import AfterValidator
from torch import Tensor, nn

from pixart.batch import Conditioning, Denoiser
from pixart.benchmark.case import Case
from pixart.benchmark.examples import CHANNELS, STRIDE
from pixart.benchmark.speed import PEERS
from pixart.config import Model, Section
from pixart.formats.diffusers_folder import diffusers_config
from pixart.formats.diffusers_names import split
from pixart.models.compiled import compile_blocks
from pixart.models.dit import PixArt

M = TypeVar("M", bound=nn.Module)

_STD = 0.02  # of all weights: with those of a first step most of the model would have nothing to compute
_SEED = 7


def _known_options(options: dict[str, bool | int | str]) -> dict[str, bool | int | str]:
    if options:
        from torch._inductor import list_options

        if unknown := sorted(options.keys() - set(list_options())):
            raise ValueError(f"inductor has no option '{unknown[0]}': torch._inductor.list_options() names them all")
    return options


class Compilation(Section):
    """How models are compiled."""

    backend: Literal["inductor", "eager"]  # eager traces and generates no code
    peer_mode: Literal["default", "max-autotune-no-cudagraphs", "max-autotune", "reduce-overhead"]
    fuse_peer_qkv: bool  # diffusers' own fusion of its projections, which it calls experimental
    options: Annotated[dict[str, bool | int | str], AfterValidator(_known_options)]  # inductor's, for ours alone


def ours(model: Model, case: Case, *, text_dim: int, device: torch.device, **changes: Any) -> PixArt:
    """A model of ``model``'s and ``case``'s shape but for ``changes``."""
    shape = known(model.model_dump()) | known(case.model_dump())
    shape |= {"input_size": case.resolution // STRIDE, "in_channels": CHANNELS, "out_channels": 2 * CHANNELS}
    with torch.device(device):
        return drawn(PixArt(**{**shape, "text_dim": text_dim, "num_classes": None, **changes}))


def known(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``values`` that are arguments of ``PixArt``."""
    arguments = inspect.signature(PixArt).parameters
    return {name: value for name, value in values.items() if name in arguments}


@torch.no_grad()
def drawn(model: PixArt) -> PixArt:
    """The model with every weight drawn anew, none of them zero; one on the meta device has none."""
    device = next(model.parameters()).device
    if device.type == "meta":
        return model
    generator = torch.Generator(device).manual_seed(_SEED)
    for parameter in model.parameters():
        parameter.normal_(0.0, _STD, generator=generator)
    return model


def their_class() -> Any:
    """diffusers' transformer, imported.

    Call it before any model is made: of a module that cannot be imported, such as xformers' kernels, Python may keep
    the error for good, and the error the frames of everyone who was waiting, with the models in them.
    """
    from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel

    return PixArtTransformer2DModel


def theirs(model: PixArt, *, fuse_qkv: bool) -> Any:
    """diffusers' transformer of the same shape and weights, on the same device, in the same precision and mode."""
    config = {name: value for name, value in diffusers_config(model.config).items() if not name.startswith("_")}
    parameter = next(model.parameters())
    with parameter.device:
        made = their_class()(**config)
    made.load_state_dict(split(model.state_dict()), strict=True)
    if fuse_qkv:
        made.fuse_qkv_projections()
    return made.to(parameter.device, parameter.dtype).train(model.training)


def twin(module: M) -> M:
    """A second module over the very same parameters, so that one may be compiled and the other not."""
    return copy.deepcopy(module, {id(p): p for p in module.parameters()})


def compile_ours(model: PixArt, settings: Compilation) -> None:
    """Block by block, as training on squares of one size compiles it."""
    device = next(model.parameters()).device
    compile_blocks(model, device, static=True, backend=settings.backend, options=settings.options)


def compile_theirs(model: nn.Module, settings: Compilation) -> None:
    """The whole model in one graph: its class names no repeated blocks, which ``compile_repeated_blocks`` needs."""
    mode = None if settings.peer_mode == "default" or settings.backend != "inductor" else settings.peer_mode
    model.compile(fullgraph=True, backend=settings.backend, mode=mode)


def built(names: Sequence[str], model: PixArt, settings: Compilation, *, checkpointing: str = "none") -> dict[str, Any]:
    """The contenders ``names`` and no others, of the weights of ``model``: plain and compiled are one set of them."""
    made: dict[str, Any] = {}
    if set(names) & set(PEERS):
        peer = theirs(model, fuse_qkv=settings.fuse_peer_qkv)
        if checkpointing != "none":
            peer.enable_gradient_checkpointing()
    for name in names:
        plain = peer if name in PEERS else model
        made[name] = twin(plain) if name.endswith("compiled") else plain
        if name == "compiled":
            compile_theirs(made[name], settings)
        elif name == "ours_compiled":
            compile_ours(made[name], settings)
    return made


def as_denoiser(model: nn.Module) -> Denoiser:
    """Their transformer in the signature of ours."""

    def denoise(x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        assert cond.tokens is not None
        assert cond.mask is not None
        dtype = next(model.parameters()).dtype
        output: Tensor = model(
            x_t.to(dtype),
            encoder_hidden_states=cond.tokens.to(dtype),
            encoder_attention_mask=cond.mask.long(),
            timestep=t,
            added_cond_kwargs={"resolution": cond.size, "aspect_ratio": cond.aspect_ratio},
            return_dict=False,
        )[0]
        return output.float()  # (N, 2C, H, W)

    return denoise
