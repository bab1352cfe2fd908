"""A run small enough for a test: seconds on one core, every part of a real one."""

from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from pixart.config import Config, parse
from pixart.door import CONFIGS, quote_stage, register_resolvers

SMALL = [
    *("scale=tiny", "autoencoder=pixels", "model.patch_size=4", "model.dim=48", "model.depth=2", "model.num_heads=2"),
    *("global_batch=8", "micro_batch=4", "optimizer.lr_decay=none", "model.interpolation_scale=1.0"),
    *("data.num_samples=64", "data.validation_samples=4", "data.workers=1", "sampling.num_inference_steps=2"),
    *("log_every=2", "validate_every=4", "sample_every=4", "snapshot_every=4", "checkpoint_every=3", "steps=8"),
]


class Silent:
    """A display that keeps what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def update(self, step: int, values: dict[str, float]) -> None: ...

    def say(self, message: str) -> None:
        self.said.append(message)

    def close(self) -> None: ...


def composed(*overrides: str, name: str = "train") -> dict[str, Any]:
    """The resolved values of ``train.py <overrides>``, or of another door."""
    register_resolvers()
    with initialize_config_dir(version_base=None, config_dir=str(CONFIGS)):
        config = compose(name, overrides=[quote_stage(override) for override in overrides])
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def small(stage: int, run_dir: Path, *overrides: str) -> Config:
    """The configuration of a small run of a stage."""
    return parse(composed(f"+stage={stage}", *SMALL, f"run_dir={run_dir}", *overrides), Config)
