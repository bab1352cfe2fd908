"""Suites of the benchmark as the door composes them, in miniature."""

from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from pixart.benchmark.record import Figure
from pixart.benchmark.suites import run_suites
from pixart.door import CONFIGS


def composed(*overrides: str) -> dict[str, Any]:
    """The resolved values of ``tools/benchmark.py <overrides>``."""
    with initialize_config_dir(version_base=None, config_dir=str(CONFIGS)):
        config = compose("benchmark", overrides=list(overrides))
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def measured(suite: str, scratch: Path, *settings: str, said: list[str] | None = None) -> dict[str, Figure]:
    """The figures of two rounds of ``suite`` with ``settings`` of its own, by name."""
    values = composed(f"suite={suite}", *(f"suites.{suite}.{setting}" for setting in settings))
    say = said.append if said is not None else lambda _: None
    figures = run_suites(values["suites"], rounds=2, seed=0, scratch=scratch, say=say)
    return {figure.name: figure for figure in figures}
