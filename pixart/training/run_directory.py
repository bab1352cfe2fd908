"""The folder of one run: who may write in it, which configuration it belongs to, and what machine it ran on."""

import fcntl
import json
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

import torch
from omegaconf import OmegaConf
from yaml import YAMLError

from pixart.aside import write_atomically

LOCK_PATIENCE = 20.0  # seconds: ranks of a killed launcher need a moment to notice that they are alone


class RunDirectory:
    """A run's folder, locked by each of its processes for as long as they live.

    Args:
        path: made if need be.
        rank: of this process; every rank takes a lock of its own, since a killed launcher may leave ranks behind.

    Raises:
        ValueError: another live run holds the folder, or it cannot be written.
    """

    def __init__(self, path: Path, *, rank: int):
        self.path = path
        self.rank = rank
        try:
            (path / ".lock").mkdir(parents=True, exist_ok=True)
            self._lock: TextIO = (path / ".lock" / f"rank_{rank}").open("w")
        except OSError as error:
            raise ValueError(
                f"run_dir {path} cannot be written ({error.strerror}): set run_dir=… to another folder"
            ) from None
        self._acquire()

    def _acquire(self) -> None:
        deadline = time.monotonic() + LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ValueError(
                        f"another run is alive in {self.path}: wait for it, stop it, or set another run_dir"
                    ) from None
                time.sleep(0.2)
            else:
                return

    def release(self) -> None:
        """Let the next run in; also happens when the process ends, however it ends."""
        self._lock.close()

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def has_checkpoint(self) -> bool:
        """Whether a whole one was ever written; a kill may leave the folder with nothing but a part."""
        return any(self.checkpoints.glob("step_*"))

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def bad_samples(self) -> Path:
        return self.path / "bad_samples.jsonl"

    def snapshot(self, step: int) -> Path:
        return self.path / "snapshots" / f"step_{step:08d}.safetensors"

    def sample(self, step: int) -> Path:
        return self.path / "samples" / f"step_{step:08d}.png"

    def earlier_config(self) -> dict[str, Any] | None:
        """The configuration that this folder was made with, None for a new one."""
        file = self.path / "config.yaml"
        if not file.exists():
            return None
        try:
            loaded = OmegaConf.to_container(OmegaConf.load(file))
        except (YAMLError, ValueError, OSError):
            loaded = None
        if not isinstance(loaded, dict) or not loaded:
            raise ValueError(f"{file} is not a configuration: put it back, or set another run_dir")
        return {str(key): value for key, value in loaded.items()}

    def write_config(self, values: dict[str, Any]) -> None:
        write_atomically(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(values)))

    def write_environment(self, *, world_size: int, device: torch.device) -> None:
        """``environment.json``: what would be needed to run this again."""
        write_atomically(self.path / "environment.json", json.dumps(environment(world_size, device), indent=2))


def environment(world_size: int, device: torch.device) -> dict[str, Any]:
    """Commit, versions and hardware of this process."""
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in ("torch", "accelerate", "diffusers", "transformers", "timm")},
        "machine": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "world_size": world_size,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
