"""The manifest of a checkpoint: which files it has, and their checksums."""

import hashlib
import json
import os
from pathlib import Path

MANIFEST = "manifest.json"


def write_flushed(path: Path, text: str) -> str:
    """Write a text file, see that it is on the disk, and return its SHA-256."""
    content = text.encode()
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(content).hexdigest()


def write_manifest(folder: Path, *, step: int, digests: dict[str, str]) -> None:
    """``digests``: file name -> SHA-256."""
    write_flushed(folder / MANIFEST, json.dumps({"step": step, "sha256": digests}))


def problem_of(folder: Path, *, step: int, part: int, parts: int) -> str | None:
    """What is wrong with the checkpoint of ``step`` in ``folder``, None for nothing.

    Of its files every ``parts``-th is looked into, from the ``part``-th on.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        digests = dict(manifest["sha256"])
        if manifest["step"] != step or not digests:
            return "its manifest is of another one"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its manifest cannot be read ({error})"
    unnamed = {file.name for file in folder.glob("*.safetensors")} - digests.keys()
    if unnamed:
        return f"its manifest does not name {min(unnamed)}"
    problems = (_problem_of_file(folder / name, digests[name]) for name in sorted(digests)[part::parts])
    return next((problem for problem in problems if problem is not None), None)


def _problem_of_file(file: Path, digest: object) -> str | None:
    try:
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    except FileNotFoundError:
        return f"{file.name} is missing"
    except OSError as error:
        return f"{file.name} cannot be read ({error.strerror})"
    return None if found == digest else f"{file.name} does not have the checksum in its manifest"
