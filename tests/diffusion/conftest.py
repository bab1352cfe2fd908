"""An objective by the paper's values, one of which a test may change."""

from collections.abc import Callable
from typing import Any

import pytest

from pixart.diffusion.gaussian import Gaussian


@pytest.fixture(scope="session")
def make_gaussian() -> Callable[..., Gaussian]:
    paper: dict[str, Any] = {
        "num_timesteps": 1000,
        "schedule": "linear",
        "prediction": "eps",
        "learned_variance": True,
        "weighting": "none",
        "weighting_gamma": 5.0,
        "time_sampling": "uniform",
    }
    return lambda **changed: Gaussian(**{**paper, **changed})
