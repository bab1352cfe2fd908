"""What the scheduler of a pipeline folder says of the objective that its transformer was trained for."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pixart.diffusion.gaussian import BETA_END, BETA_START
from pixart.foreign_words import quoted
from pixart.formats import released
from pixart.formats.shards import read_object

SCHEDULER = "scheduler/scheduler_config.json"
LCM = "LCMScheduler"
PREDICTIONS = {"epsilon": "eps", "v_prediction": "velocity", "sample": "x0"}
SCHEDULES = {"linear": "linear", "squaredcos_cap_v2": "cosine"}
ORDINARY: dict[str, Any] = {  # of keys that change the noise itself; where they are missing, that is their value
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "use_flow_sigmas": False,
}
FEWEST = round(1000 * BETA_END) + 1  # timesteps: below, a beta of the linear schedule reaches one


def run_of_pipeline(pipeline: Path) -> dict[str, Any]:
    """The part of a run's configuration that the scheduler in ``pipeline`` tells: objective, and habits if distilled.

    How it would step (its class, spacing, Karras sigmas) is a matter of drawing, and not told. Raises ``ValueError``
    naming the key that is missing, or that no objective here can express.
    """
    file = pipeline / SCHEDULER
    found = read_object(file)
    kind = found.get("_class_name")
    if not isinstance(kind, str) or "FlowMatch" in kind:
        raise _refusal(file, "_class_name", kind)
    for key, value in ORDINARY.items():
        if found.get(key, value) != value:
            raise _refusal(file, key, found[key])
    count = _count(file, found)
    objective = {
        "kind": "gaussian",
        "num_timesteps": count,
        "schedule": _known(file, found, "beta_schedule", SCHEDULES),
        "prediction": _known(file, found, "prediction_type", PREDICTIONS),
    }
    if objective["schedule"] == "linear":
        _check_ends(file, found, count)
    habits = dict(zip(("scheduler", "num_inference_steps", "guidance_scale"), released.DISTILLED_HABITS, strict=True))
    return {"objective": objective, **({"sampling": habits} if kind == LCM else {})}


def _count(file: Path, found: Mapping[str, Any]) -> int:
    count = found.get("num_train_timesteps")
    if not isinstance(count, int) or isinstance(count, bool) or not FEWEST <= count <= 10**6:
        raise _refusal(file, "num_train_timesteps", count)
    return count


def _known(file: Path, found: Mapping[str, Any], key: str, known: Mapping[str, str]) -> str:
    value = found.get(key)
    if not isinstance(value, str) or value not in known:
        raise _refusal(file, key, value)
    return known[value]


def _check_ends(file: Path, found: Mapping[str, Any], count: int) -> None:
    """The ends of the linear schedule, which keeps its total noise when there are more or fewer timesteps."""
    for key, end in (("beta_start", BETA_START), ("beta_end", BETA_END)):
        value = found.get(key)
        if not isinstance(value, int | float) or not math.isclose(value, end * 1000 / count, rel_tol=1e-6):
            raise _refusal(file, key, value)


def _refusal(file: Path, key: str, value: object) -> ValueError:
    return ValueError(
        f"{file}: {key} is {quoted(str(value))}, which no objective here has: its pictures would come out wrong. Take "
        f"source={file.parents[1] / 'transformer'} if the transformer is nevertheless of PixArt's kind"
    )
