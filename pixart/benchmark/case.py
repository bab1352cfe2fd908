"""A case: the sizes that a suite measures at, chosen by the device."""

from typing import Annotated, Literal, TypeVar

import torch
from pydantic import AfterValidator, Field

from pixart.benchmark.device import Wanted
from pixart.config import Positive, Section


def _comparison(target: str) -> str:
    relation, _, bound = target.partition(" ")
    if relation not in ("<=", ">="):
        raise ValueError(f"'{target}' is no target: write it as '>= 10' or '<= 0.8'")
    float(bound)
    return target


Target = Annotated[str, AfterValidator(_comparison)]


Resolution = Annotated[int, Field(gt=0, multiple_of=16)]  # pixels of a square, in whole patches of latent cells


class Case(Section):
    """One size of the transformer and of its batch."""

    precision: Wanted
    resolution: Resolution
    depth: Positive  # blocks
    batch: Positive  # images of a micro-batch, or drawn together
    repeats: Positive  # of the work in one turn of a round
    checkpointing: Literal["none", "blocks", "selective"]
    size_conditioning: bool
    targets: dict[str, Target]  # figure -> what it is to reach


def _some_of_ours(names: tuple[str, ...]) -> tuple[str, ...]:
    if not any(name.startswith("ours") for name in names):
        raise ValueError(f"of {', '.join(names)} none is ours: add ours or ours_compiled")
    return names


class Compared(Case):
    """A case at which ours and the peers do the same work."""

    contenders: Annotated[
        tuple[Literal["eager", "compiled", "ours", "ours_compiled"], ...],
        Field(min_length=1),
        AfterValidator(_some_of_ours),
    ]  # those that are built and timed; what the first of them computes the others must


C = TypeVar("C")


def on(device: torch.device, cpu: C, cuda: C) -> C:
    """What is meant for this kind of device."""
    return cuda if device.type == "cuda" else cpu
