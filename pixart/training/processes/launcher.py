"""What the launcher asks for: how many processes there are, and FSDP as Accelerate's configuration file sets it."""

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

FILE = "the launcher's FSDP settings"
_UNITS = "PixArtBlock"  # what is sharded as one piece, beside the rest of the model


@dataclass(frozen=True)
class Launcher:
    """What is known before the processes meet.

    Args:
        world_size: processes in all.
        local_world_size: of these, the ones on this machine; None where the launcher does not say.
        fsdp: whether Accelerate's file asks for FSDP.
        kind: the sharding that it asks for.
        refusals: what else it asks for and does not get, each a clause with its mend.
        checkpointing: whether it asks to compute activations again.
    """

    world_size: int
    local_world_size: int | None
    fsdp: bool = False
    kind: Literal["full_shard", "shard_grad_op"] = "full_shard"
    refusals: tuple[str, ...] = ()
    checkpointing: bool = False


@cache
def launcher() -> Launcher:
    """The launcher of this process, asked once: ``read_launcher`` takes its wish out of the environment."""
    return read_launcher(os.environ)


def read_launcher(environ: MutableMapping[str, str]) -> Launcher:
    """The launcher's wishes; ``ACCELERATE_USE_FSDP`` is removed from ``environ``.

    Accelerate would answer it with an FSDP of its own, on GPUs alone, and Transformers by leaving parts of the frozen
    encoders to be sent from the first rank.
    """
    local = environ.get("LOCAL_WORLD_SIZE")
    sizes = (int(environ.get("WORLD_SIZE", "1")), None if local is None else int(local))
    if environ.pop("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return Launcher(*sizes)
    reshard = environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() in ("true", "full_shard", "1")
    return Launcher(
        *sizes,
        fsdp=True,
        kind="full_shard" if reshard else "shard_grad_op",
        refusals=tuple(_refusals(environ)),
        checkpointing=_on(environ, "FSDP_ACTIVATION_CHECKPOINTING"),
    )


def _on(environ: Mapping[str, str], name: str) -> bool:
    return environ.get(name, "false").lower() in ("true", "1")


def _refusals(environ: Mapping[str, str]) -> list[str]:
    """What of a file with ``distributed_type: FSDP`` cannot be had, as clauses "setting=value: mend"."""
    found = []
    if environ.get("FSDP_VERSION", "1") != "2":
        found.append("fsdp_version=1: set fsdp_version: 2")
    for setting in ("offload_params", "activation_checkpointing_offload", "forward_prefetch"):
        if _on(environ, f"FSDP_{setting.upper()}"):
            found.append(f"fsdp_{setting}=true: set it to false")
    if environ.get("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP").upper() != "TRANSFORMER_BASED_WRAP":
        found.append(f"fsdp_auto_wrap_policy={environ['FSDP_AUTO_WRAP_POLICY']}: set TRANSFORMER_BASED_WRAP")
    if environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP", _UNITS) != _UNITS:
        wrapped = environ["FSDP_TRANSFORMER_CLS_TO_WRAP"]
        found.append(f"fsdp_transformer_layer_cls_to_wrap={wrapped}: set {_UNITS}")
    if "FSDP_IGNORED_MODULES" in environ:
        found.append(f"fsdp_ignored_modules={environ['FSDP_IGNORED_MODULES']}: leave it out")
    if _on(environ, "ACCELERATE_USE_PARALLELISM_CONFIG"):
        found.append("a parallelism_config: leave it out (sharding=hybrid_shard copies over machines)")
    return found
