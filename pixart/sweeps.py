"""Several jobs in one command (``-m``): what each of them is, known before the first begins."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict


class Job(NamedTuple):
    """One job of a sweep."""

    name: str  # in words, with what sets it apart
    launcher: str  # the class that starts it
    values: dict[str, Any]  # its resolved configuration


class JobFailed(Exception):
    """A job of a sweep did not end well. It travels between processes, and so holds nothing but words and a number."""

    def __init__(self, told: str, trace: str, process: int):
        """``trace`` is the traceback of a fault, empty for a user's mistake; ``process`` is where it happened."""
        super().__init__(told, trace, process)
        self.told, self.trace, self.process = told, trace, process

    def __str__(self) -> str:
        return self.told


def is_sweep(arguments: Sequence[str]) -> bool:
    """Whether Hydra is asked to run several jobs."""
    return any(argument in ("-m", "--multirun", "hydra.mode=MULTIRUN") for argument in arguments)


def settings_of_sweep(config_name: str, arguments: Sequence[str]) -> list[str]:
    """What Hydra is told beside ``arguments``: a folder for its own files, the same for the same command."""
    given = {argument.partition("=")[0] for argument in arguments}
    digest = hashlib.sha256("\n".join(arguments).encode()).hexdigest()[:8]
    settings = {"hydra.sweep.dir": f"outputs/sweeps/{digest}", "hydra.job.name": config_name}
    if os.environ.get("RANK", "0") != "0":
        settings["hydra/hydra_logging"] = "none"  # every process of a launch would tell the same
    return [f"{key}={value}" for key, value in settings.items() if key not in given]


def jobs_of_sweep(config_folder: str, config_name: str, arguments: Sequence[str]) -> list[Job]:
    """The jobs that Hydra will make of ``arguments``; none where another sweeper than Hydra's own decides.

    Raises:
        Exception: as Hydra does for arguments that it cannot compose.
    """
    given = [argument for argument in arguments if not argument.startswith("-")]
    settings = [argument for argument in given if argument.lstrip("+~").startswith(("hydra.", "hydra/"))]
    if any(setting.startswith("hydra/sweeper") for setting in settings):
        return []
    with initialize_config_dir(version_base=None, config_dir=config_folder):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        parsed = parser.parse_overrides([argument for argument in given if argument not in settings])
        (jobs,) = BasicSweeper.split_arguments(parsed, None)
        swept = {position for position, override in enumerate(zip(*jobs, strict=True)) if len(set(override)) > 1}
        return [_job(number, job, swept, settings, config_name) for number, job in enumerate(jobs)]


def _job(number: int, overrides: list[str], swept: set[int], settings: list[str], config_name: str) -> Job:
    composed = compose(config_name, overrides=[*settings, *overrides], return_hydra_config=True)
    words = " ".join(override for position, override in enumerate(overrides) if position in swept)
    with _as_job(composed, number):
        launcher = str(composed.hydra.launcher["_target_"])
        kept = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
        values = OmegaConf.to_container(kept, resolve=True, throw_on_missing=False)
    assert isinstance(values, dict)
    return Job(f"job {number}{f' ({words})' if words else ''}", launcher, {str(k): v for k, v in values.items()})


@contextmanager
def _as_job(composed: DictConfig, number: int) -> Iterator[None]:
    """Let ``${hydra:job.num}`` mean this job."""
    with open_dict(composed):
        composed.hydra.job.num = number
        composed.hydra.job.id = str(number)
    HydraConfig.instance().set_config(composed)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = None


def refuse_two_launchers(jobs: Sequence[Job]) -> None:
    """``ValueError`` where processes that a launcher started would each start all jobs again."""
    own = next((job.launcher for job in jobs if not job.launcher.endswith(".BasicLauncher")), None)
    if own is not None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "hydra/launcher=… starts processes of its own, and so did torchrun or accelerate launch: say "
            "'python train.py -m … hydra/launcher=…', with hydra.launcher.tasks_per_node=N for jobs of N processes"
        )


def take_part_in_task() -> None:
    """Tell torch which of its processes this is, where submitit (Slurm, or its local stand-in) started several.

    Under torchrun and ``accelerate launch`` these variables are there already.
    """
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return
    from submitit import JobEnvironment
    from submitit.helpers import TorchDistributedEnvironment

    if JobEnvironment().num_tasks > 1:
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        if visible and "," not in visible:
            os.environ["LOCAL_RANK"] = "0"  # Slurm gave each task a GPU of its own, and each sees only that
