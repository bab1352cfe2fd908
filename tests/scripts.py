"""Runs the scripts of this folder that fork processes of their own: a test's own process has threads already."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def run_script(name: str, *arguments: str, wanted: Any = None) -> str:
    """What ``python <name> <arguments>`` prints, given ``wanted`` as JSON on its standard input; it must end with 0."""
    finished = subprocess.run(
        [sys.executable, str(Path(__file__).parent / name), *arguments],
        input=json.dumps(wanted),
        text=True,
        capture_output=True,
        timeout=280,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout
