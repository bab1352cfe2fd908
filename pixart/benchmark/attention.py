"""The suite ``attention``: every backend that runs here, and others of torch's, at the shapes of the transformer."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pixart.benchmark.candidates import candidates, laid_out, unmasked
from pixart.benchmark.case import Resolution, on
from pixart.benchmark.device import DTYPES, Choice, Wanted, forget_compiled, pick, precision_on, settle
from pixart.benchmark.examples import STRIDE, Text, lengths
from pixart.benchmark.record import Figure
from pixart.benchmark.suites import Run
from pixart.benchmark.timing import Contender, Spread, interleaved
from pixart.config import Model, Positive, Section
from pixart.models.attention import BACKENDS, Backend, usable

SUITE = "attention"
_AGREEMENT = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}  # of the values, of the largest


class Shape(Section):
    """One size of image."""

    resolution: Resolution
    batch: Positive


class Shapes(Section):
    """What is measured on one kind of device."""

    precision: Wanted
    repeats: Positive
    images: dict[str, Shape]


class Settings(Section):
    """The keys of ``configs/suite/attention.yaml``."""

    device: Choice
    model: Model
    text: Text
    cpu: Shapes
    cuda: Shapes


class Inputs(NamedTuple):
    """Of one attention."""

    q: Tensor  # (N, T, h, d)
    k: Tensor  # (N, S, h, d)
    v: Tensor  # (N, S, h, d)
    mask: Tensor | None  # (N, S) bool, None where every key is real


def measure(settings: Settings, run: Run) -> Iterator[Figure]:
    """Milliseconds of forward, and of forward and backward, by shape."""
    device = pick(settings.device)
    shapes = on(device, settings.cpu, settings.cuda)
    dtype = DTYPES[precision_on(device, shapes.precision)]
    backends = _backends(device, run)
    for name, shape in shapes.images.items():
        forget_compiled()  # flex attention is a graph for each shape, and torch.compile makes few of one function
        tokens = (shape.resolution // STRIDE // settings.model.patch_size) ** 2
        for kind, mask in (("self", None), ("cross", _mask(shape.batch, settings.text, device, run.seed))):
            keys = tokens if mask is None else settings.text.longest
            what = f"{kind} attention, {name}, {shape.batch} x {tokens} queries, {keys} keys"
            run.say(what)
            inputs = _inputs(settings.model, shape.batch, tokens, keys, mask, dtype, device)
            yield from _compared(backends, inputs, what, shapes.repeats, run)
            del inputs


def _backends(device: torch.device, run: Run) -> dict[str, Backend]:
    found = {}
    for name, backend in BACKENDS.items():
        if usable(name, device.type) == name:
            found[name] = backend
        else:
            run.say(f"backend {name}: not on this device")
    if device.type != "cuda":
        run.say("variable lengths and flex attention with a backward: not on this device")
    return {**found, **candidates(device)}


def _mask(count: int, text: Text, device: torch.device, seed: int) -> Tensor:
    real = lengths(count, text, torch.Generator().manual_seed(seed))
    return (torch.arange(text.longest) < real[:, None]).to(device)


def _inputs(
    model: Model, count: int, queries: int, keys: int, mask: Tensor | None, dtype: torch.dtype, device: torch.device
) -> Inputs:
    heads, width = model.num_heads, model.dim // model.num_heads
    rng = torch.Generator(device).manual_seed(0)

    def normal(length: int) -> Tensor:
        drawn = torch.randn(count, length, heads, width, dtype=dtype, device=device, generator=rng)
        return drawn.requires_grad_()

    return Inputs(normal(queries), normal(keys), normal(keys), mask)


def _compared(backends: dict[str, Backend], inputs: Inputs, what: str, repeats: int, run: Run) -> Iterator[Figure]:
    expected = _way(BACKENDS["sdpa"], inputs)()
    ways: dict[str, Callable[[], Tensor]] = {}
    for name, backend in backends.items():
        way = _way(backend, inputs)
        if (refused := _refusal(way, expected, inputs)) is None:
            ways[name] = way
        else:
            run.say(f"{name}: left out at this shape ({refused})")
    if inputs.mask is not None:
        ways["sdpa without a mask"] = lambda: unmasked(*inputs[:3], None)
    for direction, work in (("forward", _forward), ("forward and backward", _both)):
        contenders = {name: work(way, inputs, repeats) for name, way in ways.items()}
        times = interleaved(contenders, rounds=run.rounds, seed=run.seed)
        for name, seconds in times.clock.items():
            yield Figure.spread(SUITE, f"{what}: {name}, {direction}", Spread.of(1000 * seconds), "ms")


def _prepared(backend: Backend, inputs: Inputs) -> Any:
    return None if inputs.mask is None else backend.prepare(inputs.mask, inputs.q.shape[1], None)


def _way(backend: Backend, inputs: Inputs) -> Callable[[], Tensor]:
    padding: list[Any] = []  # prepared once for all blocks of a forward, so not what is timed here

    def way() -> Tensor:
        if not padding:
            padding.append(_prepared(backend, inputs))
        k, v = laid_out(backend, inputs.k, inputs.v, padding[0])
        return backend.attend(inputs.q, k, v, padding[0])

    return way


def _refusal(way: Callable[[], Tensor], expected: Tensor, inputs: Inputs) -> str | None:
    """Why a way cannot be compared, None where it can: kernels refuse precisions and widths by these errors."""
    try:
        found = way()
        torch.autograd.grad(found.sum(), inputs[:3])
    except (RuntimeError, ValueError) as error:
        return str(error).splitlines()[0]
    found, expected = found.detach(), expected.detach()
    apart = float((found - expected).abs().max() / expected.abs().max())
    return None if apart <= _AGREEMENT[inputs.q.dtype] else f"it computes something else, {apart:.2g} apart"


def _forward(way: Callable[[], Tensor], inputs: Inputs, repeats: int) -> Contender:
    @torch.no_grad()
    def work() -> int:
        for _ in range(repeats):
            way()
        settle(inputs.q.device)
        return repeats

    return work


def _both(way: Callable[[], Tensor], inputs: Inputs, repeats: int) -> Contender:
    gradient = torch.ones_like(inputs.q)

    def work() -> int:
        for _ in range(repeats):
            torch.autograd.grad(way(), inputs[:3], gradient)
        settle(inputs.q.device)
        return repeats

    return work
