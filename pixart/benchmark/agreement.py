"""Contenders must do the same before they are timed: here they are asked, and those that do not fit are left out."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import TypeVar

import torch

from pixart.benchmark.device import emptied, settle

C = TypeVar("C")


def tried(
    contenders: Mapping[str, C],
    once: Callable[[C], torch.Tensor],
    *,
    tolerance: float,
    rounded: Mapping[str, float] = MappingProxyType({}),
    device: torch.device,
    say: Callable[[str], None],
    release: Callable[[C], None] = lambda _: None,
) -> Iterator[tuple[str, float]]:
    """(name, seconds of its first time, compilation included) of every contender that fits the device's memory.

    What another has ``release`` lets go of, before the next one is tried.
    ``once(contender)`` is its result; ``ValueError`` where it is not that of the first one to ``tolerance`` of the
    largest value, or to what ``rounded`` has for it.
    """
    expected: torch.Tensor | None = None
    for name, contender in contenders.items():
        began = time.perf_counter()
        result: torch.Tensor | None = None
        with suppress(torch.OutOfMemoryError):  # its frames hold the activations for as long as it is handled
            result = once(contender).float().cpu()
        if result is None:
            say(f"{name} does not fit the memory of this device and is left out: take a smaller batch")
            release(contender)
            emptied()
            continue
        settle(device)
        seconds = time.perf_counter() - began
        expected = result if expected is None else expected
        apart = float((result - expected).abs().max() / expected.abs().max())
        if not apart <= rounded.get(name, tolerance):
            raise ValueError(f"{name} computes something else: {apart:.2g} of the largest value apart")
        yield name, seconds
