"""Bad samples, found by looking or met by a run, on their way into a quarantine file."""

import json
from collections.abc import Mapping
from pathlib import Path

from pixart.data.storage.quarantine import add, read_quarantine

_BAD_SAMPLES = "bad_samples.jsonl"  # of a run directory


def met_by(run_dir: Path) -> dict[str, str]:
    """Key -> reason of the bad samples that a run met; ``ValueError`` where ``run_dir`` is no folder of a run."""
    if not (run_dir / "config.yaml").is_file():
        raise ValueError(f"run={run_dir} holds no config.yaml: give the directory of a run")
    if not (run_dir / _BAD_SAMPLES).is_file():
        return {}  # it met none
    lines = (run_dir / _BAD_SAMPLES).read_text(encoding="utf-8").splitlines(keepends=True)
    found = [json.loads(line) for line in lines if line.endswith("\n")]  # a killed run may leave half a line
    return {one["key"]: one["reason"] for one in found}


def put_away(path: Path, keys: Mapping[str, str]) -> str:
    """Add ``keys`` (key -> reason) to the quarantine file ``path``, and say in a sentence what is in it now."""
    if not keys:
        return f"no bad sample was found: {path} is left as it is"
    before = read_quarantine(path).keys if path.exists() else {}
    now = add(path, keys)
    new = len(now.keys) - len(before)
    return (
        f"{path}: version {now.version}, samples left out: {len(now.keys)}, new: {new}; data.quarantine={path} uses it"
    )
