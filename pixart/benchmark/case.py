"""A case: the sizes that a suite measures at, chosen by the device."""

import math
from typing import Annotated, ClassVar, Literal, Self, TypeVar

import torch
from pydantic import AfterValidator, Field, model_validator

from pixart.benchmark.device import Wanted
from pixart.config import Positive, Section


def _comparison(target: str) -> str:
    relation, _, bound = target.partition(" ")
    if relation not in ("<=", ">=") or not _is_number(bound):
        raise ValueError(f"'{target}' is no target: write it as '>= 10' or '<= 0.8'")
    return target


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


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

    figures: ClassVar[frozenset[str]] = frozenset()  # those that may have a target

    @model_validator(mode="after")
    def _targets_are_of_figures(self) -> Self:
        if unknown := sorted(self.targets.keys() - self.figures):
            known = ", ".join(sorted(self.figures)) or "none"
            raise ValueError(f"targets: no figure is called '{unknown[0]}'; those that may have one: {known}")
        return self


def _some_of_ours(names: tuple[str, ...]) -> tuple[str, ...]:
    if not any(name.startswith("ours") for name in names):
        raise ValueError(f"of {', '.join(names)} none is ours: add ours or ours_compiled")
    if len(set(names)) < len(names):
        raise ValueError(f"{', '.join(names)}: name each once")
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
