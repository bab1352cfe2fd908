"""What a pipeline's scheduler tells of the objective: kept where we have it, refused by key where not."""

import json
from pathlib import Path
from typing import Any

import pytest

from pixart.diffusion.gaussian import Gaussian
from pixart.diffusion.sampler import make_scheduler
from pixart.formats import released
from pixart.formats.scheduler_config import SCHEDULER, run_of_pipeline

RELEASED = {
    "_class_name": "DPMSolverMultistepScheduler", "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear",
    "num_train_timesteps": 1000, "prediction_type": "epsilon", "trained_betas": None,
}  # fmt: skip


def told(folder: Path, **changes: Any) -> dict[str, Any]:
    file = folder / SCHEDULER
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({key: value for key, value in (RELEASED | changes).items() if value != "drop"}))
    return run_of_pipeline(folder)


def test_the_released_kind_is_noise_over_1000_linear_steps_and_lcm_is_known_as_distilled(tmp_path):
    objective = {"kind": "gaussian", "num_timesteps": 1000, "schedule": "linear", "prediction": "eps"}
    assert told(tmp_path) == {"objective": objective}
    habits = {"scheduler": "lcm", "num_inference_steps": 4, "guidance_scale": 1.0}
    assert told(tmp_path, _class_name="LCMScheduler") == {"objective": objective, "sampling": habits}


@pytest.mark.parametrize("prediction", ["eps", "velocity", "x0"])
@pytest.mark.parametrize(("schedule", "num_timesteps"), [("linear", 1000), ("linear", 500), ("cosine", 250)])
def test_each_of_9_objectives_that_we_write_comes_back(tmp_path, prediction, schedule, num_timesteps):
    objective: Any = {"num_timesteps": num_timesteps, "schedule": schedule, "prediction": prediction}
    make_scheduler(Gaussian(**released.OBJECTIVE | objective), "dpm_solver").save_pretrained(tmp_path / "scheduler")
    assert run_of_pipeline(tmp_path) == {"objective": {"kind": "gaussian", **objective}}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("beta_schedule", "scaled_linear"), ("beta_schedule", "drop"), ("beta_schedule", []),
        ("beta_start", 0.00085), ("beta_end", 0.012), ("beta_end", "drop"), ("beta_end", "0.02"),
        ("prediction_type", "flow_prediction"), ("prediction_type", "drop"), ("prediction_type", None),
        ("num_train_timesteps", 20), ("num_train_timesteps", "drop"), ("num_train_timesteps", 1000.0),
        ("trained_betas", [0.1]), ("rescale_betas_zero_snr", True), ("use_flow_sigmas", True),
        ("_class_name", "FlowMatchEulerDiscreteScheduler"), ("_class_name", "drop"),
    ],
)  # fmt: skip
def test_what_no_objective_of_ours_is_stops_it_by_its_key(tmp_path, key, value):
    with pytest.raises(ValueError, match=rf"scheduler_config\.json: {key} is .* which no objective here has"):
        told(tmp_path, **{key: value})


def test_500_timesteps_with_the_betas_of_1000_are_another_schedule(tmp_path):
    with pytest.raises(ValueError, match=r"beta_start is '0\.0001'"):
        told(tmp_path, num_train_timesteps=500)


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"scheduler_config\.json: there is no such file"):
        run_of_pipeline(tmp_path)
    told(tmp_path)
    (tmp_path / SCHEDULER).write_text("{")
    with pytest.raises(ValueError, match=r"scheduler_config\.json is not readable as JSON"):
        run_of_pipeline(tmp_path)
