"""What a finished run leaves, and where two of them differ: to the bit, but for times and paths."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

TIMED = {"images_per_second", "tflops", "mfu", "data_wait", "memory"}  # of a line of the log: how long things took
_OWN = {"manifest.json"}  # checksums of files that are compared themselves
_NAMED = 5  # differences that a problem names


class EndState(NamedTuple):
    """All that must not depend on what a run went through."""

    values: dict[str, Any]  # place -> tensor, number or text: checkpoint, snapshots and log, flattened
    left: list[str]  # parts of files that nobody will finish


def end_state(run_dir: Path, *, pictures: bool = True) -> EndState:
    """The newest checkpoint (weights, averages, optimizer, all else), every snapshot, every picture, and the log."""
    values: dict[str, Any] = {}
    pointer, steps = run_dir / "checkpoints" / "latest", sorted(run_dir.glob("checkpoints/step_*"))
    values["latest"] = pointer.read_text() if pointer.exists() else None
    for newest in steps[-1:]:
        for file in sorted(newest.rglob("*")):
            if file.is_file() and file.name not in _OWN:
                _flatten(values, "checkpoint", _content(file))
    for file in sorted(run_dir.rglob("snapshots/**/*.safetensors")):
        _flatten(values, str(file.relative_to(run_dir)), _tensors(file))
    for file in sorted(run_dir.glob("samples/*.png")) if pictures else []:
        values[str(file.relative_to(run_dir))] = file.read_bytes()
    values |= _log(run_dir / "metrics.jsonl")
    return EndState(values, left_over(run_dir))


def left_over(run_dir: Path) -> list[str]:
    """Hidden files and folders: what was written aside and never finished."""
    hidden = [path for path in run_dir.rglob(".*") if ".lock" not in path.parts]
    return sorted(str(path.relative_to(run_dir)) for path in hidden)


def differences(found: EndState, expected: EndState) -> list[str]:
    """Sentences that say where a run differs from the one it should equal; none where it does not."""
    told = []
    ours, theirs = found.values, expected.values
    wrong = sorted(place for place in ours.keys() & theirs.keys() if not _same(ours[place], theirs[place]))
    for word, places in (
        ("differ", wrong),
        ("are missing", sorted(theirs.keys() - ours.keys())),
        ("are there for no reason", sorted(ours.keys() - theirs.keys())),
    ):
        if places:
            told.append(f"{len(places)} values {word}: {', '.join(places[:_NAMED])}")
    return told + ([f"left behind: {', '.join(found.left)}"] if found.left else [])


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        # By their bits: a NaN equals itself, and 0 is not -0.
        return one.dtype == other.dtype and one.shape == other.shape and _bits(one) == _bits(other)
    return type(one) is type(other) and one == other


def _bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _content(file: Path) -> Any:
    if file.suffix == ".safetensors":
        return _tensors(file)
    if file.suffix == ".json":
        return json.loads(file.read_text())
    return file.read_bytes()


def _tensors(file: Path) -> dict[str, Tensor]:
    """By name, and of a piece of a tensor by its place in the whole: whichever rank wrote it to its file."""
    with safe_open(file, framework="pt") as opened:
        places = json.loads((opened.metadata() or {}).get("DCP_SHARDING_INFO", "{}"))
        return {f"{name} {places.get(name, '')}".strip(): opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


def _log(file: Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    lines: Counter[int] = Counter()
    for text in file.read_text().splitlines() if file.exists() else []:
        line = json.loads(text)
        step = line["step"]
        lines[step] += 1
        values |= {f"log of step {step}, line {lines[step]}: {k}": v for k, v in line.items() if k not in TIMED}
    return values


def _flatten(into: dict[str, Any], place: str, value: Any) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _flatten(into, f"{place}.{key}", inner)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            _flatten(into, f"{place}.{number}", inner)
    else:
        into[place] = value
