"""What one stage hands to the next, by declared rules: each tensor of both sides is accounted for, or nothing happens.

The rules
- equal name and shape: copied
- our own stage 1 (labels) to a model without labels: the row of the null label is folded into the last bias of the time
  embedding, to which it was added anyway; with a caption that adds nothing yet, the model equals the unconditional
  stage 1 at every timestep (the paper's section 2.3 asks for this at one timestep only)
- text where there was none: fresh, with cross-attention's output at zero
- size conditioning where there was none: fresh, with its last layers at zero; where it is no longer wanted: left behind
- a learned variance where there was none: its outputs at zero; where it is no longer wanted: dropped
- a modulation for each block (DiT, ours with adaln=per_block) to a shared one: ``pixart.formats.reparameterise``
- positions are no tensors: they are made again for the model's own size
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pixart.formats.reparameterise import LABELS, SharedMlp, reparameterise
from pixart.formats.snapshot import Snapshot
from pixart.formats.table import Row
from pixart.formats.weights import Weights
from pixart.models.dit import PixArt

TIME_BIAS = "t_embedder.mlp.2.bias"


class Pair(NamedTuple):
    """The two sides: what there is, and what the model has now."""

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    wanted: Mapping[str, Tensor]
    model: PixArt


@torch.no_grad()
def hand_off(
    source: Snapshot | Weights | tuple[Mapping[str, Tensor], Mapping[str, Any]],
    model: PixArt,
    *,
    shared_mlp: SharedMlp | None = None,
) -> list[Row]:
    """Load ``source`` (weights, or tensors in our names with their model's config) into a freshly made ``model``.

    ``shared_mlp`` says where a shared modulation comes from if each block of the source has its own. Raises
    ``ValueError`` naming the first tensor that no rule covers; the model is then untouched.
    """
    tensors, config = (source.tensors, source.model_config) if isinstance(source, Snapshot | Weights) else source
    wanted = model.state_dict()
    made: dict[str, Row] = {}
    gone: list[Row] = []
    _refuse_other(config, model, "num_heads")  # what the shapes of tensors cannot tell, or tell badly
    if shared_mlp is not None and (config["adaln"], model.config["adaln"]) == ("per_block", "single"):
        _refuse_other(config, model, "dim", "depth")
        tensors, config, made, gone = reparameterise(tensors, config, shared=shared_mlp, fresh=wanted)
    _refuse_other(config, model, "adaln")
    pair = Pair(tensors, config, wanted, model)
    loaded: dict[str, Tensor] = {}
    rows = _positions(pair)
    for name in pair.wanted:
        loaded[name], row = _arrive(pair, name)
        rows.append(made.get(name, row))
    rows += gone + [_leave(pair, name) for name in tensors if name not in pair.wanted]
    model.load_state_dict(loaded)
    return rows


def _refuse_other(config: Mapping[str, Any], model: PixArt, *keys: str) -> None:
    for key in keys:
        if config[key] != model.config[key]:
            raise ValueError(
                f"{key} is {config[key]} in the weights to start from and {model.config[key]} in the model"
            )


def _family(name: str) -> str:
    if name.startswith("y_embedder.y_proj.") or ".cross_attn." in name:
        return "text"
    if name.startswith(("csize_embedder.", "ar_embedder.")):
        return "size"
    return "labels" if name == LABELS else "trunk"


def _has(names: Mapping[str, Tensor], family: str) -> bool:
    return any(_family(name) == family for name in names)


def _positions(pair: Pair) -> list[Row]:
    def described(config: Mapping[str, Any]) -> str:
        side = config["input_size"] // config["patch_size"]
        return f"{side} x {side} tokens, interpolation {config['interpolation_scale']:g}"

    old, new = described(pair.config), described(pair.model.config)
    return [] if old == new else [Row("positions", "re-made", f"{old} -> {new}")]


def _arrive(pair: Pair, name: str) -> tuple[Tensor, Row]:
    """The value of one of the model's tensors, and where it came from."""
    wanted = pair.wanted[name]
    if name not in pair.tensors:
        return _fresh(pair, name)
    found = pair.tensors[name]
    if name.startswith("final_layer.linear.") and _variance_differs(pair):
        return _convert_variance(pair, name)
    if found.shape != wanted.shape:
        shapes = f"{tuple(found.shape)} in the weights to start from and {tuple(wanted.shape)} in the model"
        if name == LABELS:
            shapes += (
                f": {len(found) - 1} classes there, {len(wanted) - 1} here. Set data.num_classes={len(found) - 1} if "
                "the data number theirs so; a text stage (+stage=2) takes these weights without their classes"
            )
        raise ValueError(f"tensor '{name}' is {shapes}")
    if name == TIME_BIAS and LABELS in pair.tensors and LABELS not in pair.wanted:
        return found.float() + pair.tensors[LABELS][-1].float(), Row(name, "converted", "plus the null label's row")
    return found, Row(name, "copied", "")


def _fresh(pair: Pair, name: str) -> tuple[Tensor, Row]:
    family = _family(name)
    if family not in ("text", "size") or _has(pair.tensors, family):
        raise ValueError(f"tensor '{name}' of the model is missing in the weights to start from")
    if ".cross_attn.proj." in name or (family == "size" and ".mlp.2." in name):
        return torch.zeros_like(pair.wanted[name]), Row(name, "fresh", "zero: adds nothing at first")
    return pair.wanted[name], Row(name, "fresh", "")


def _leave(pair: Pair, name: str) -> Row:
    """What becomes of a tensor that the model does not have."""
    family = _family(name)
    if family == "labels":
        return Row(name, "folded", f"null row into {TIME_BIAS}, classes left behind")
    if family == "size" and not _has(pair.wanted, "size"):
        return Row(name, "left behind", "the model is not told sizes")
    raise ValueError(f"tensor '{name}' of the weights to start from has no place in the model")


def _variance_differs(pair: Pair) -> bool:
    channels = pair.model.config["in_channels"]
    return {pair.config["out_channels"], pair.model.out_channels} == {channels, 2 * channels}


def _convert_variance(pair: Pair, name: str) -> tuple[Tensor, Row]:
    """Rows are (row, column, channel) of a patch, so the variance half of the channels is not one half of the rows."""
    old, new = pair.config["out_channels"], pair.model.out_channels
    found = pair.tensors[name].unflatten(0, (-1, old))  # (P * P, out, ...)
    if new < old:
        return found[:, :new].flatten(0, 1), Row(name, "converted", "without its variance half")
    added = torch.cat([found, torch.zeros_like(found)], dim=1)  # (P * P, 2 * out, ...)
    return added.flatten(0, 1), Row(name, "converted", "its new variance half is zero")
