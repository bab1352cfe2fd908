"""Who holds which part of the model: copies on all ranks (DDP), or one shard each (FSDP2), on GPUs and CPUs alike.

Sharding changes neither numbers nor names: parameters stay float32, autocast acts inside the forward as it does under
DDP, and a parameter is a ``DTensor`` under the name that it always had.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from pixart.models.dit import PixArt
from pixart.training.processes.launcher import FILE, Launcher

Kind = Literal["none", "shard_grad_op", "full_shard", "hybrid_shard"]


@dataclass(frozen=True)
class Sharding:
    """How a run is distributed.

    Args:
        kind: ``none``, a copy on each rank; ``full_shard``, gathered for each block anew; ``shard_grad_op``, gathered
            once a micro-batch; ``hybrid_shard``, as ``full_shard`` within a machine and copied over machines.
        machines: rows of the mesh: 1, or the number of copies of ``hybrid_shard``.
        said: why it is not what was asked for; None where it is.
    """

    kind: Kind
    machines: int = 1
    said: str | None = None


def decided(asked: Literal["auto"] | Kind, launcher: Launcher, *, checkpointing: str) -> Sharding:
    """The sharding of a run: the key ``sharding`` decides, and ``auto`` leaves it to the launcher.

    Args:
        checkpointing: the run's ``model.checkpointing``, which the launcher may ask for too.

    Raises:
        ValueError: the launcher asks for what cannot be had, or ``hybrid_shard`` has no whole machines.
    """
    kind: Kind = launcher.kind if asked == "auto" and launcher.fsdp else "none" if asked == "auto" else asked
    said = None
    if launcher.fsdp and asked != "auto" and kind != launcher.kind:
        said = f"{FILE} ask for {launcher.kind}, and sharding={asked} is set: that is what is done"
    if launcher.fsdp and kind != "none":
        _refuse(launcher, version_matters=asked == "auto", checkpointing=checkpointing)
    if kind != "none" and launcher.world_size == 1:
        return Sharding("none", said=f"sharding={kind} with one process: there is nothing to share out")
    return _over_machines(launcher, said) if kind == "hybrid_shard" else Sharding(kind, said=said)


def _refuse(launcher: Launcher, *, version_matters: bool, checkpointing: str) -> None:
    wrong = [one for one in launcher.refusals if version_matters or not one.startswith("fsdp_version")]
    if launcher.checkpointing and checkpointing == "none":
        wrong.append("fsdp_activation_checkpointing=true with model.checkpointing=none: set model.checkpointing=blocks")
    if wrong:
        raise ValueError(f"{FILE} ask for what cannot be had: {'; '.join(wrong)}")


def _over_machines(launcher: Launcher, said: str | None) -> Sharding:
    world, local = launcher.world_size, launcher.local_world_size
    if local is None or world % local:
        raise ValueError(
            f"sharding=hybrid_shard needs equally many processes on each machine, and of {world} the launcher puts "
            f"{'an unknown number' if local is None else local} on this one (LOCAL_WORLD_SIZE): start them with "
            "torchrun or accelerate launch, or set sharding=full_shard"
        )
    if local == world:
        return Sharding("full_shard", said="sharding=hybrid_shard on one machine: full_shard is the same")
    if local == 1:
        return Sharding("none", said="sharding=hybrid_shard with one process a machine: none (DDP) is the same")
    return Sharding("hybrid_shard", machines=world // local, said=said)


def distributed(accelerator: Accelerator, bare: nn.Module, sharding: Sharding) -> nn.Module:
    """``bare`` on its device, ready for training: what is to be called, in training mode.

    A sharded model is ``bare`` itself, its parameters replaced: an optimizer must be made afterwards. Every rank gives
    the same weights.
    """
    bare.to(accelerator.device)
    if sharding.kind == "none":
        model: nn.Module = accelerator.prepare_model(bare)
        return model.train()
    accelerator.prepare_model(bare, evaluation_mode=True)  # this word gives autocast, and no DDP
    mesh = _mesh(accelerator, sharding.machines)
    reshard = sharding.kind != "shard_grad_op"
    for block in bare.get_submodule("blocks").children():
        fully_shard(block, mesh=mesh, reshard_after_forward=reshard)
    fully_shard(bare, mesh=mesh, reshard_after_forward=False)  # of the rest the backward pass needs the last part first
    return bare.train()


def _mesh(accelerator: Accelerator, machines: int) -> DeviceMesh:
    world, kind = accelerator.num_processes, accelerator.device.type
    if machines == 1:
        return init_device_mesh(kind, (world,), mesh_dim_names=("shard",))
    return init_device_mesh(kind, (machines, world // machines), mesh_dim_names=("copy", "shard"))


@contextmanager
def unsynced(accelerator: Accelerator, model: nn.Module) -> Iterator[None]:
    """Gradients of backward passes in here stay on their rank; they travel with the first one outside."""
    if not isinstance(model, FSDPModule):
        with accelerator.no_sync(model):
            yield
        return
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


def is_sharded(bare: nn.Module) -> bool:
    """Whether its parameters are in shards."""
    return isinstance(bare, FSDPModule)


def local(tensor: Tensor) -> Tensor:
    """This rank's shard, sharing its memory; a whole tensor is its own."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor, on every rank; all must ask, in the same order. A whole one is given back."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def plain(bare: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """An unsharded model on the device, in evaluation mode, as ``bare`` is and with the weights ``tensors``.

    All ranks must ask together; afterwards each may call it as often as it likes, for its forward exchanges nothing.
    It knows no autocast but the caller's.

    Args:
        tensors: names of the state dict -> parameters and buffers, sharded or whole. Whole ones are not copied.
    """
    assert isinstance(bare, PixArt)
    with torch.device("meta"):
        model = PixArt(**bare.config)
    model.load_state_dict({name: gathered(tensor).detach() for name, tensor in tensors.items()}, assign=True)
    return model.requires_grad_(False).eval()
