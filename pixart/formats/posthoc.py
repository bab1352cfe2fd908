"""Averages that a run did not track, made of the power-function averages that it did (EDM2: arXiv 2312.02696, 3.2)."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pixart.aside import refuse_taken, refuse_unwritable
from pixart.foreign_words import plain
from pixart.formats.profile_fit import Fit, Tracked, fit
from pixart.formats.profiles import Power, Profile
from pixart.formats.snapshot import read_snapshot, write_snapshot
from pixart.formats.torch_files import check_values
from pixart.models.dit import from_config
from pixart.models.weights import FORMAT, read_json

AT_ONCE = 2**26  # numbers whose sums are held in float64: half a GiB


class Stored(NamedTuple):
    """A snapshot of a power-function average, of which no number has been read."""

    path: Path
    profile: Power
    step: int
    run: str
    shapes: dict[str, tuple[int, ...]]


class Reconstructed(NamedTuple):
    """What was made."""

    path: Path
    step: int
    snapshots: int  # it is made of
    error: float  # see ``Fit``


def reconstruct(
    run: Path, wanted: Profile, *, step: int | None, out: Path | None, told: Callable[[int, int], None]
) -> Reconstructed:
    """Write the snapshot that the run would have, had it tracked ``wanted``.

    All power snapshots up to the step are used; a part of their numbers is held at a time, and what is written once.

    Args:
        run: a run directory.
        step: one that has power snapshots; None for the last.
        out: a new file; None for ``snapshots/posthoc_<name of wanted>/step_….safetensors`` of the run.
        told: (reads done, of) after each file.

    Raises:
        ValueError: one sentence: there are no such snapshots, one is damaged or of another run, ``out`` exists.
    """
    found = _stored(run, step)
    last = found[-1].step
    path = out or run / "snapshots" / f"posthoc_{wanted.name}" / f"step_{last:08d}.safetensors"
    refuse_taken(path, folder=False)
    refuse_unwritable(path, key="out")
    made = fit(wanted, [Tracked(one.profile, one.step) for one in found])
    _write(path, found, made, wanted, told)
    return Reconstructed(path, last, len(found), made.error)


def _stored(run: Path, step: int | None) -> list[Stored]:
    """The power snapshots up to ``step`` in the order of their steps, checked to be of one run."""
    if not run.is_dir():
        raise ValueError(f"run={run}: there is no such run directory")
    places = [(int(match[1]), file) for file in sorted(run.glob("snapshots/power_*/step_*.safetensors"))
              if (match := re.fullmatch(r"step_(\d+)", file.stem))]  # fmt: skip
    if not places:
        raise ValueError(
            f"run={run} has no power snapshots (snapshots/power_*/step_*.safetensors): train with ema=edm2, "
            "or ema.power=[0.05,0.1]"
        )
    steps = sorted({at for at, _ in places})
    if step is not None and step not in steps:
        near = min(steps, key=lambda at: abs(at - step))
        raise ValueError(
            f"step={step} has no power snapshot in {run}: there are {len(steps)}, from {steps[0]} to {steps[-1]}, "
            f"and {near} is the nearest"
        )
    last = steps[-1] if step is None else step
    found = [_look(file, at) for at, file in sorted(places) if at <= last]
    for other in found[:-1]:
        _refuse_foreign(other, found[-1])
    return found


def _refuse_foreign(one: Stored, other: Stored) -> None:
    if one.run != other.run:
        raise ValueError(f"{one.path} and {other.path} are of different runs: put away the one that does not belong")
    if one.shapes != other.shapes:
        name = min(name for name, shape in (one.shapes.items() ^ other.shapes.items()))
        raise ValueError(
            f"{one.path} and {other.path} differ in tensor '{plain(name)}': put away the one that is wrong"
        )


def _look(path: Path, step: int) -> Stored:
    """What the file at ``path`` says of itself, which must be what its name and folder say."""
    with _opened(path) as file:
        metadata = file.metadata() or {}
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path}: a safetensors file, but not a snapshot of ours: put it away")
    said = read_json(path, metadata, "profile")
    width = said.get("sigma_rel")
    if said.get("kind") != "power" or "made_of" in said or not isinstance(width, float) or "run" not in metadata:
        raise ValueError(f"{path}: its metadata does not say that it is a tracked power average of a run: put it away")
    profile = Power(width)
    if path.parent.name != profile.name or metadata.get("step") != str(step):
        raise ValueError(
            f"{path}: its metadata says {profile.name} at step {plain(metadata.get('step', '?'))}: put it back there"
        )
    return Stored(path, profile, step, metadata["run"], shapes)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}): put it away, or copy it again") from error


def _write(path: Path, found: list[Stored], made: Fit, wanted: Profile, told: Callable[[int, int], None]) -> None:
    """The snapshot of the last step with other weights; what is no parameter of the model stays as it is there."""
    base = read_snapshot(found[-1].path)
    with torch.device("meta"):
        model = from_config(found[-1].path, base.model_config)
    groups = list(_groups({name: p.numel() for name, p in model.named_parameters()}))
    for i, names in enumerate(groups):
        sums = {name: torch.zeros(found[-1].shapes[name], dtype=torch.float64) for name in names}
        for j, (one, coefficient) in enumerate(zip(found, made.coefficients, strict=True), start=1):
            _add(sums, one.path, float(coefficient))
            told(i * len(found) + j, len(groups) * len(found))
        base.tensors.update({name: total.float() for name, total in sums.items()})
    about = base._asdict() | {"profile": wanted.described() | {"made_of": len(found), "error": made.error}}
    write_snapshot(path, about.pop("tensors"), **about)


def _groups(numels: dict[str, int]) -> Iterator[list[str]]:
    """Names in their order, as many together as stay within ``AT_ONCE``, or one alone."""
    held: list[str] = []
    for name, numel in numels.items():
        if held and sum(numels[one] for one in held) + numel > AT_ONCE:
            yield held
            held = []
        held.append(name)
    yield held


def _add(sums: dict[str, Tensor], path: Path, coefficient: float) -> None:
    """Add the file's tensors, times ``coefficient``, to the sums of the same names."""
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in sums}  # which stay on the disk until they are read
    check_values(path, tensors, allow_nonfinite=False)
    for name, total in sums.items():
        total.add_(tensors[name], alpha=coefficient)
