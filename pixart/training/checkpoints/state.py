"""The state of a learner as a checkpoint holds it: tensors under path-like names, and everything else as JSON."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pixart.training.checkpoints.pieces import Stored
from pixart.training.loop import Learner, Progress

_OPTIMIZER = ("optimizer", "state")


def split(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors in nested mappings under their paths ("model/blocks.0.attn.qkv.weight"), and what is left of them."""
    tensors: dict[str, Tensor] = {}

    def left(mapping: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in mapping.items():
            if isinstance(value, Tensor):
                tensors[_name((*path, key))] = value
            else:
                values[key] = left(value, (*path, key)) if isinstance(value, Mapping) else value
        return values

    return tensors, left(state, ())


def joined(tensors: Mapping[str, Tensor], values: dict[str, Any]) -> dict[str, Any]:
    """The inverse of ``split``; ``values`` is filled in place."""
    for name, tensor in tensors.items():
        *path, last = _path(name)
        inner = values
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = tensor
    return values


def _name(path: tuple[str, ...]) -> str:
    """As in RFC 6901 (JSON pointers), so that a key may hold the sign between keys."""
    return "/".join(key.replace("~", "~0").replace("/", "~1") for key in path)


def _path(name: str) -> tuple[str, ...]:
    return tuple(key.replace("~1", "/").replace("~0", "~") for key in name.split("/"))


def state_of(learner: Learner) -> dict[str, Any]:
    """Everything that the next step depends on; tensors are the learner's own. All ranks call it together."""
    scaler = learner.accelerator.scaler
    return {
        "progress": asdict(learner.progress),
        "model": learner.bare.state_dict(),
        "optimizer": optimizer_state(learner.bare, inner(learner.optimizer)),
        "ema": learner.ema.state_dict(),
        "averages": {name: rows.tolist() for name, rows in learner.averages.gathered().items()},
        "faults": learner.faults.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
    }


def restore(learner: Learner, state: Mapping[str, Any]) -> None:
    """Take up ``state``; its tensors of model and average are the learner's own, filled already."""
    load_optimizer_state(learner.bare, inner(learner.optimizer), state["optimizer"])
    learner.ema.load_state_dict(state["ema"])
    learner.averages.restore(
        {name: torch.tensor(rows, dtype=torch.float64) for name, rows in state["averages"].items()}
    )
    learner.faults.load_state_dict(state["faults"])
    learner.progress = Progress(**state["progress"])
    if learner.accelerator.scaler is not None and state["scaler"] is not None:
        learner.accelerator.scaler.load_state_dict(state["scaler"])


def places(learner: Learner, stored: Mapping[str, Stored]) -> dict[str, Tensor]:
    """A tensor to read each stored one into: the learner's own, or a new one laid out as its parameter is.

    Raises:
        ValueError: the checkpoint is of another model, in one sentence that names a tensor.
    """
    own, _ = split({"model": learner.bare.state_dict(), "ema": learner.ema.state_dict()})
    for name in sorted(own.keys() | {name for name in stored if _path(name)[0] in ("model", "ema")}):
        has, told = own.get(name), stored.get(name)
        if has is None or told is None or tuple(has.shape) != told.shape:
            raise ValueError(
                f"its tensor {name} is {'missing' if told is None else told.shape}, where this run has "
                f"{'none' if has is None else tuple(has.shape)}"
            )
    parameters = dict(learner.bare.named_parameters())
    return {name: own.get(name, _new_place(name, told, parameters)) for name, told in stored.items()}


def _new_place(name: str, told: Stored, parameters: Mapping[str, nn.Parameter]) -> Tensor:
    path = _path(name)
    parameter = parameters.get(path[2]) if path[:2] == _OPTIMIZER else None
    if parameter is not None and tuple(parameter.shape) == told.shape:
        return torch.zeros_like(parameter.detach(), dtype=told.dtype)  # sharded alike
    return torch.zeros(told.shape, dtype=told.dtype)


def optimizer_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """The state of ``optimizer`` under the names of the parameters, whatever their numbers are."""
    numbered = optimizer.state_dict()
    names = dict(_numbers(model, optimizer))
    groups = [{key: value for key, value in group.items() if key != "params"} for group in numbered["param_groups"]]
    return {
        "state": {names[number]: dict(state) for number, state in numbered["state"].items()},
        "groups": {str(i): group for i, group in enumerate(groups)},
    }


def load_optimizer_state(model: nn.Module, optimizer: Optimizer, named: Mapping[str, Any]) -> None:
    """The inverse; the tensors of ``named`` are taken over, not copied."""
    groups = optimizer.state_dict()["param_groups"]
    for i, group in enumerate(groups):
        stored = named["groups"][str(i)]
        group.update({key: tuple(v) if isinstance(group.get(key), tuple) else v for key, v in stored.items()})
    state = {number: named["state"][name] for number, name in _numbers(model, optimizer) if name in named["state"]}
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _numbers(model: nn.Module, optimizer: Optimizer) -> Iterator[tuple[int, str]]:
    """PyTorch numbers parameters in the order of the groups."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, parameter in enumerate(parameters):
        yield number, names[parameter]


def inner(optimizer: Optimizer) -> Optimizer:
    """``optimizer`` without the wrapper that Accelerate gives it."""
    return getattr(optimizer, "optimizer", optimizer)
