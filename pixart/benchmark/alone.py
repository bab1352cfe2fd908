"""A measurement in a process of its own, whose memory is its alone."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]


def run_alone(module: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What ``python -m module`` prints on its last line, an object, given ``arguments`` as one object."""
    command = [sys.executable, "-m", module, json.dumps(arguments)]
    finished = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(f"{module} failed:\n{finished.stderr}")
    found: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return found


def peak_mib() -> float:
    """The most memory this process ever held, by the kernel's own mark; that of ``resource`` is inherited."""
    return _mib("VmHWM")


def held_mib() -> float:
    """The memory that this process holds now."""
    return _mib("VmRSS")


def _mib(mark: str) -> float:
    found = re.search(rf"{mark}:\s+(\d+)", Path("/proc/self/status").read_text())
    return float("nan") if found is None else int(found[1]) / 1024
