"""From per-block modulation, as DiT has it, to adaLN-single (PixArt-alpha, arXiv 2310.00426, section 2.3).

DiT modulates block i by S_i = W_i SiLU(c + t) + b_i, a matrix for each block. PixArt has one such map T for all blocks
and adds a table E_i to its result. The tables are chosen so that the two agree at t = 500 without a class:

    E_i = W_i SiLU(tau) + b_i - T(tau),     tau the time vector of t = 500,

whatever T is. The last layer adds the time vector itself to both rows of its table, so tau is taken off there.

Letters: D width.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pixart.formats.table import Row
from pixart.models.embeddings import sinusoids

SharedMlp = Literal["first", "mean", "fresh"]  # T: that of block 0, the mean of all blocks', or drawn anew
MEETING = 500  # the timestep at which both models agree
LABELS = "y_embedder.embedding_table.weight"
SHARED = ("t_block.1.weight", "t_block.1.bias")

_WHENCE = {"first": "that of block 0", "mean": "mean of all blocks'", "fresh": ""}


class Reparameterised(NamedTuple):
    """The same weights with one shared modulation."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    made: dict[str, Row]  # of each tensor that is new in them
    gone: list[Row]  # of each that is no longer in them


def reparameterise(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], *, shared: SharedMlp, fresh: Mapping[str, Tensor]
) -> Reparameterised:
    """Per-block weights as adaLN-single ones; equal to them at t = 500 without a class.

    Args:
        tensors: in our names, with ``adaLN_modulation`` in every block and the last layer.
        config: of their model.
        shared: where the shared map comes from.
        fresh: the tensors of the model to be filled: its shared map is used for ``fresh``, and a label table is kept
            only where it has one, since the paper drops the class otherwise.
    """
    held = {name: tensor for name, tensor in tensors.items() if ".adaLN_modulation." not in name}
    gone = [
        Row(name, "converted", f"into scale_shift_table, equal at t = {MEETING}")
        for name in tensors
        if name not in held
    ]
    if LABELS in held and LABELS not in fresh:
        del held[LABELS]
        gone.append(Row(LABELS, "left behind", "the class is dropped, as in the paper"))
    tau = _time_vector(tensors)  # (D,)
    weight, bias = _shared(tensors, config["depth"], shared, fresh)
    base = _modulation(weight, bias, tau)  # (6, D)
    tables = {f"blocks.{i}.scale_shift_table": _own(tensors, f"blocks.{i}", tau) - base for i in range(config["depth"])}
    tables["final_layer.scale_shift_table"] = _own(tensors, "final_layer", tau) - tau  # (2, D)
    made = {name: Row(name, "converted", f"equal at t = {MEETING} without a class") for name in tables}
    made |= {name: Row(name, "fresh" if shared == "fresh" else "converted", _WHENCE[shared]) for name in SHARED}
    new = {**tables, SHARED[0]: weight, SHARED[1]: bias}
    held |= {name: tensor.float() for name, tensor in new.items()}
    return Reparameterised(held, {**config, "adaln": "single"}, made, gone)


def _time_vector(tensors: Mapping[str, Tensor]) -> Tensor:
    """The time vector of t = 500, (D,) float64."""
    code = sinusoids(torch.tensor(float(MEETING))).double()
    weights = [tensors[f"t_embedder.mlp.{layer}.{kind}"].double() for layer in (0, 2) for kind in ("weight", "bias")]
    return F.linear(F.silu(F.linear(code, *weights[:2])), *weights[2:])


def _modulation(weight: Tensor, bias: Tensor, tau: Tensor) -> Tensor:
    """(rows * D, D) and (rows * D,) at the time vector (D,) -> (rows, D) float64."""
    return F.linear(F.silu(tau), weight.double(), bias.double()).view(-1, len(tau))


def _own(tensors: Mapping[str, Tensor], module: str, tau: Tensor) -> Tensor:
    weight, bias = (tensors[f"{module}.adaLN_modulation.1.{kind}"] for kind in ("weight", "bias"))
    return _modulation(weight, bias, tau)


def _shared(
    tensors: Mapping[str, Tensor], depth: int, shared: SharedMlp, fresh: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Weight and bias of T in float32: the tables must make up for its rounding too."""
    if shared == "fresh":
        return fresh[SHARED[0]], fresh[SHARED[1]]
    blocks = range(1 if shared == "first" else depth)
    weight, bias = (
        _mean([tensors[f"blocks.{i}.adaLN_modulation.1.{kind}"] for i in blocks]) for kind in ("weight", "bias")
    )
    return weight, bias


def _mean(tensors: list[Tensor]) -> Tensor:
    total = torch.zeros_like(tensors[0], dtype=torch.float64)
    for tensor in tensors:
        total += tensor
    return (total / len(tensors)).float()
