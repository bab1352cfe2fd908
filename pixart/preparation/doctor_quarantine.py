"""Bad samples, found by looking or met by a run, on their way into a quarantine file."""

import json
from collections.abc import Mapping
from pathlib import Path

from pixart.data.storage.quarantine import add, read_quarantine

_BAD_SAMPLES = "bad_samples.jsonl"  # of a run directory


def met_by(run_dir: Path) -> dict[str, str]:
    """Key -> reason of the bad samples that a run met; ``ValueError`` where it is no folder of a run."""
    if not (run_dir / "config.yaml").is_file():
        raise ValueError(f"run={run_dir} holds no config.yaml: give the directory of a run")
    if not (run_dir / _BAD_SAMPLES).is_file():
        return {}  # it met none
    *lines, _half = (run_dir / _BAD_SAMPLES).read_bytes().split(b"\n")  # a killed run may leave half a line
    return dict(_key_and_reason(line, f"{run_dir / _BAD_SAMPLES}, line {i}") for i, line in enumerate(lines, start=1))


def _key_and_reason(line: bytes, where: str) -> tuple[str, str]:
    try:
        about = json.loads(line)
        key, reason = about["key"], about["reason"]
        if not (isinstance(key, str) and isinstance(reason, str)):
            raise TypeError("key and reason are to be strings")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"{where} is not what a run writes, an object with the strings key and reason: delete the line"
        ) from error
    return key, reason


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
