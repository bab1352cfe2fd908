"""Checkpoints, to resume: written aside, verified, renamed; ``latest`` points at the last good one."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pixart.formats.aside import flush, written_aside

STATE, MANIFEST = "state.pt", "manifest.json"


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file so that a reader sees the old one or the new one, never a part."""
    with written_aside(path) as aside:
        aside.write_text(text)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Checkpoints:
    """The folder ``checkpoints/`` of a run. One process writes; all may read.

    Args:
        folder: made when the first checkpoint is.
        keep: how many of the newest stay.
        warn: told, in one sentence, of a checkpoint that is damaged and passed over.
    """

    def __init__(self, folder: Path, *, keep: int, warn: Callable[[str], None]):
        self.folder = folder
        self.keep = keep
        self.warn = warn

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write ``state`` (tensors, numbers, strings, and containers of them) as the checkpoint of ``step``."""
        final = self.folder / f"step_{step:08d}"
        aside = self.folder / f".{final.name}.new"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        torch.save(state, aside / STATE)
        flush(aside / STATE)
        digest = sha256(aside / STATE)
        write_atomically(aside / MANIFEST, json.dumps({"step": step, "sha256": {STATE: digest}}))
        if final.exists():  # left by a run that went on past it and was cut back
            shutil.rmtree(final)
        aside.replace(final)
        flush(self.folder)
        write_atomically(self.folder / "latest", final.name)
        self._forget_old()
        return final

    def _forget_old(self) -> None:
        for old in self._complete()[self.keep :]:
            shutil.rmtree(old)

    def _complete(self) -> list[Path]:
        """Newest first."""
        return sorted(self.folder.glob("step_*"), reverse=True)

    def latest(self) -> dict[str, Any] | None:
        """The state of the newest good checkpoint on the CPU, or None where there is none at all.

        Raises:
            ValueError: checkpoints exist and every one of them is damaged.
        """
        found = self._complete()
        for folder in found:
            problem = self._problem(folder)
            if problem is None:
                return torch.load(folder / STATE, map_location="cpu", weights_only=True)
            self.warn(f"checkpoint {folder} is passed over: {problem}")
        if found:
            raise ValueError(
                f"no checkpoint in {self.folder} can be read: delete the folder to start again, or set another run_dir"
            )
        return None

    def _problem(self, folder: Path) -> str | None:
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            digest = manifest["sha256"][STATE]
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"its manifest cannot be read ({error})"
        if not (folder / STATE).is_file():
            return f"{STATE} is missing"
        if sha256(folder / STATE) != digest:
            return f"{STATE} does not have the checksum in its manifest"
        return None
