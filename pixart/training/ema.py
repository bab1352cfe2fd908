"""Moving averages of the weights, several at once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from pixart.formats.profiles import Exponential, Power, Profile
from pixart.training.processes.sharding import is_sharded, local, plain


class Ema:
    """Float32 averages of a model's parameters, one for each profile; buffers follow as they are.

    Each process averages the shards that it holds. The first profile is the primary one: what validation, pictures and
    the run's own snapshots take.

    Args:
        model: whose tensors are averaged; it may sit on any device, and be sharded already.
        decay: of the primary average, in [0, 1).
        warmup: start every decay from a short memory: see ``Exponential``.
        others: decays of further averages.
        power: relative widths of power-function averages: see ``Power``.
    """

    def __init__(
        self, model: nn.Module, *, decay: float, warmup: bool, others: Sequence[float] = (), power: Sequence[float] = ()
    ):
        profiles: list[Profile] = [Exponential(one, warmup) for one in (decay, *others)]
        profiles += [Power(width) for width in power]
        self.profiles = {profile.name: profile for profile in profiles}
        self.primary = profiles[0].name
        self.updates = 0
        self._layouts = {name: _layout(p) for name, p in model.named_parameters() if isinstance(p, DTensor)}
        with torch.no_grad():
            self.averages = {
                profile: {name: local(p).to(torch.float32, copy=True) for name, p in model.named_parameters()}
                for profile in self.profiles
            }
        self.buffers = {name: b.detach().clone() for name, b in _persistent(model)}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards the weights of ``model``, once an optimizer step."""
        self.updates += 1
        weights = [local(p).float() for p in model.parameters()]
        for name, profile in self.profiles.items():
            torch._foreach_lerp_(list(self.averages[name].values()), weights, 1.0 - profile.kept(self.updates))
        for name, buffer in self.buffers.items():
            buffer.copy_(model.get_buffer(name))

    @contextmanager
    def weights(self, model: nn.Module, profile: str | None = None) -> Iterator[nn.Module]:
        """``model`` with the averaged weights, in evaluation mode; all is put back afterwards, come what may.

        In place of a sharded model comes a plain one for the time being; all ranks must ask together, and each may
        then call it as often as it likes.
        """
        if is_sharded(model):
            yield plain(model, self.tensors(profile))
            return
        training = model.training
        kept = {name: tensor.clone() for name, tensor in _tensors(model).items()}
        try:
            _fill(model, self.tensors(profile))
            yield model.eval()
        finally:
            _fill(model, kept)
            model.train(training)

    def tensors(self, profile: str | None = None) -> dict[str, Tensor]:
        """What a snapshot holds: averages (of the primary profile) and buffers, named as in the model's state dict.

        They are sharded where the parameters are, and share their memory with the averages.
        """
        average = self.averages[profile or self.primary]
        return {**{name: self._spread(name, tensor) for name, tensor in average.items()}, **self.buffers}

    def _spread(self, name: str, tensor: Tensor) -> Tensor:
        """This process's part of a parameter's average as the whole that it is part of."""
        layout = self._layouts.get(name)
        return tensor if layout is None else DTensor.from_local(tensor, run_check=False, **layout)

    def state_dict(self) -> dict[str, Any]:
        """``averages`` {profile: {name: tensor}} and ``buffers`` {name: tensor}, all shared, and ``updates``."""
        averages = {
            profile: {name: self._spread(name, tensor) for name, tensor in average.items()}
            for profile, average in self.averages.items()
        }
        return {"averages": averages, "buffers": self.buffers, "updates": self.updates}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up, in place, a state of the same profiles whose tensors are laid out as these are."""
        for profile, average in self.averages.items():
            for name, tensor in average.items():
                tensor.copy_(local(state["averages"][profile][name]))
        for name, buffer in self.buffers.items():
            buffer.copy_(state["buffers"][name])
        self.updates = int(state["updates"])


def _layout(parameter: DTensor) -> dict[str, Any]:
    """How a parameter is spread, in the words of ``DTensor.from_local``."""
    return {
        "device_mesh": parameter.device_mesh,
        "placements": parameter.placements,
        "shape": parameter.shape,
        "stride": parameter.stride(),
    }


def _persistent(model: nn.Module) -> list[tuple[str, Tensor]]:
    kept = model.state_dict(keep_vars=True)
    return [(name, buffer) for name, buffer in model.named_buffers() if name in kept]


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and the buffers that are stored with them, without history."""
    return {name: tensor.detach() for name, tensor in [*model.named_parameters(), *_persistent(model)]}


def _fill(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    for name, tensor in _tensors(model).items():
        tensor.copy_(tensors[name])
