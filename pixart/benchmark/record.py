"""What was measured, on which machine, with what: as JSON, and as a table for people."""

import json
import math
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pixart.benchmark.timing import Spread

_PACKAGES = (
    *("torch", "torchvision", "numpy", "pillow", "pyarrow", "safetensors", "webdataset"),
    *("diffusers", "transformers", "accelerate", "xformers"),
)
_CPUINFO = Path("/proc/cpuinfo")
_BUSY = 1.5  # processes that wait for each core: a measurement's own threads are one of them
_LEGEND = (
    "`eager` and `compiled` are diffusers' model, `ours` and `ours_compiled` this project's. `ratio_vs_eager` is the "
    "time of `ours_compiled` as a share of that of `eager`, `plain_ratio_vs_eager` that of `ours`, round by round; "
    "`share_of_matmul` is the share of the rate of the layers' matrix products alone, `mfu` of the device's peak."
)
# How figures are named that say what was timed in a case.
PARAMETERS, RESOLUTION = "parameters", "resolution"


class Figure(NamedTuple):
    """One measured quantity."""

    suite: str
    name: str
    value: float
    unit: str
    low: float | None = None  # lower quartile of many rounds
    high: float | None = None  # upper quartile
    target: str | None = None  # as ">= 10"

    @classmethod
    def spread(cls, suite: str, name: str, spread: Spread, unit: str, target: str | None = None) -> "Figure":
        """A figure from the quartiles of many rounds."""
        return cls(suite, name, spread.median, unit, spread.low, spread.high, target)

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None where there is none."""
        if self.target is None:
            return None
        relation, bound = self.target.split()
        return self.value >= float(bound) if relation == ">=" else self.value <= float(bound)


def record(figures: Iterable[Figure], settings: dict[str, Any]) -> dict[str, Any]:
    """The figures with all that is needed to measure them again."""
    return {
        "command": shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
        "measured": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": _commit(),
        "machine": machine(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "settings": settings,
        "figures": [{**figure._asdict(), "met": figure.met} for figure in figures],
    }


def machine() -> dict[str, Any]:
    """Processor, memory, threads, graphics cards with their driver, and how busy the machine is with other things."""
    cards = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "threads": torch.get_num_threads(),
        "devices": cards,
        "cuda": torch.version.cuda if cards else None,
        "driver": _driver() if cards else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def write_record(path: Path, values: dict[str, Any]) -> None:
    """Write ``values`` to ``path`` as JSON, whole or not at all."""
    from pixart.aside import written_aside

    with written_aside(path) as aside:
        aside.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_figures(path: Path) -> list[Figure]:
    """Those of a record at ``path``.

    ``OSError``, ``ValueError``, ``KeyError``, ``TypeError``, ``OverflowError`` or ``RecursionError`` where it is none.
    """
    found = json.loads(path.read_text(encoding="utf-8"))["figures"]
    figures = [Figure(str(one["suite"]), str(one["name"]), float(one["value"]), str(one["unit"])) for one in found]
    if bad := next((one for one in figures if not math.isfinite(one.value)), None):
        raise ValueError(f"{bad.name} is {bad.value}")
    return figures


def as_markdown(values: dict[str, Any]) -> str:
    """A record as text: what ran where and when, and a table of its figures."""
    about = values["machine"]
    where = ", ".join([about["processor"], f"{about['cores']} cores", *about["devices"]])
    if about["devices"]:
        where += f", CUDA {about['cuda']}, driver {about['driver']}"
    versions = ", ".join(f"{name} {found}" for name, found in values["packages"].items())
    suites = " and ".join(dict.fromkeys(figure["suite"] for figure in values["figures"]))
    busy = f"{values['measured'][:10]}, {about['threads']} threads, load {about['load'][0]}"
    lines = [f"# Measured: {suites}", "", f"    {values['command']}", ""]
    lines += [f"{where} ({busy}); Python {about['python']}, {versions}.", ""]
    if about["load"][0] > _BUSY * about["cores"]:
        lines += ["Other work kept this machine busy: rates are too low, and verdicts not to be relied on.", ""]
    if any("ratio_vs_" in figure["name"] for figure in values["figures"]):
        lines += [_LEGEND, ""]
    rows = [[f["name"], _shown(f), f["unit"], _verdict(f)] for f in values["figures"]]
    table = [["", "median (quartiles)", "unit", "target"], ["---", "--:", "---", "---"], *rows]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in table)]) + "\n"


def _shown(figure: dict[str, Any]) -> str:
    numbers: Sequence[float] = [figure[name] for name in ("value", "low", "high") if figure[name] is not None]
    value, *quartiles = (f"{number:.3g}" if abs(number) < 100 else f"{number:,.0f}" for number in numbers)
    return f"{value} ({' to '.join(quartiles)})" if quartiles else value


def _verdict(figure: dict[str, Any]) -> str:
    if figure["target"] is None:
        return ""
    return f"{figure['target']}: {'met' if figure['met'] else 'missed'}"


@cache
def _commit() -> Any:
    from pixart.training.run_directory import environment  # seconds, with all that it imports

    return environment(world_size=1, device=torch.device("cpu"))["commit"]


@cache
def _processor() -> str:
    """Its name, and the numbers of its kind, since a rented one's name is that of many."""
    first = _CPUINFO.read_text().split("\n\n")[0] if _CPUINFO.is_file() else ""
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    if "model name" not in told:
        return platform.processor() or "unknown processor"
    if not told.keys() >= {"cpu family", "model"}:
        return told["model name"]
    return f"{told['model name']} (family {told['cpu family']}, model {told['model']})"


def _driver() -> str:
    """The version of NVIDIA's kernel module, as it says itself."""
    told = Path("/proc/driver/nvidia/version")
    found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", told.read_text()) if told.is_file() else None
    return "unknown driver" if found is None else found[0]


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
