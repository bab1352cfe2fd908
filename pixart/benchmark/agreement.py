"""Contenders must do the same before they are timed: here they are asked, and those that do not fit are left out."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import TypeVar

import torch

from pixart.benchmark.device import emptied, settle

C = TypeVar("C")


def tried(
    contenders: Mapping[str, C],
    once: Callable[[C], Sequence[torch.Tensor]],
    *,
    tolerances: Sequence[float],
    rounded: Mapping[str, Sequence[float]] = MappingProxyType({}),
    device: torch.device,
    say: Callable[[str], None],
    release: Callable[[C], None] = lambda _: None,
) -> Iterator[tuple[str, float]]:
    """(name, seconds of its first time, compilation included) of every contender that fits the device's memory.

    What another has ``release`` lets go of, before the next one is tried.
    ``once(contender)`` are its results; ``ValueError`` where one is not that of the first contender to its tolerance,
    of the largest value; for some contenders ``rounded`` has other tolerances.
    """
    expected: list[torch.Tensor] | None = None
    for name, contender in contenders.items():
        began = time.perf_counter()
        results: list[torch.Tensor] | None = None
        with suppress(torch.OutOfMemoryError):  # its frames hold the activations for as long as it is handled
            results = [result.float().cpu() for result in once(contender)]
        if results is None:
            say(f"{name} does not fit the memory of this device and is left out: take a smaller batch")
            release(contender)
            emptied()
            continue
        settle(device)
        seconds = time.perf_counter() - began
        expected = results if expected is None else expected
        for ours, theirs, tolerance in zip(results, expected, rounded.get(name, tolerances), strict=True):
            apart = float((ours - theirs).abs().max() / theirs.abs().max())
            if not apart <= tolerance:
                raise ValueError(f"{name} computes something else: {apart:.2g} of the largest value apart")
        yield name, seconds
