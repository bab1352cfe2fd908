"""What every door does: Hydra in, one sentence out. Besides ``sweeps.py`` the only file that knows Hydra."""

import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from pixart.help import ASKS, help_of
from pixart.sweeps import (
    JobFailed,
    is_sweep,
    jobs_of_sweep,
    refuse_two_launchers,
    settings_of_sweep,
    take_part_in_task,
)

WANTS_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"  # asked of Hydra, before a door sets it for itself
WRAPPED = "_value"
MISTAKES = (ValueError, OSError, OmegaConfBaseException)
PATIENCE = 2.0  # seconds; a launcher looks after its processes more often
CONFIGS = Path(__file__).resolve().parents[1] / "configs"


class Refused(ValueError):
    """What is asked for is well said, and no."""


def quote_stage(argument: str) -> str:
    """``+stage=2`` -> ``stage='2'``.

    Hydra reads a bare 2 as an integer, which it refuses for a group; and the group stands in the defaults list already
    (so that a scale may change a stage's numbers), where '+' would be refused.
    """
    match = re.fullmatch(r"\+?stage=([\w,]+)", argument)
    return "stage=" + ",".join(f"'{choice}'" for choice in match[1].split(",")) if match else argument


def plain_keys(config_name: str) -> set[str]:
    """The keys of a configuration that share their name with a group of another one (``sample.py text_encoder=…``)."""
    return {str(key) for key in OmegaConf.load(CONFIGS / f"{config_name}.yaml") if (CONFIGS / str(key)).is_dir()}


def wrap(argument: str, keys: set[str]) -> str:
    """``text_encoder=x`` -> ``text_encoder={_value: x}``.

    Hydra takes the first for the choice of a group, though the configuration has none; the second it takes as it is.
    """
    key, _, value = argument.partition("=")
    return f"{key}={{{WRAPPED}: {value}}}" if key in keys and value else argument


def unwrap(value: Any) -> Any:
    """What was wrapped, or the value itself."""
    return value[WRAPPED] if isinstance(value, dict) and value.keys() == {WRAPPED} else value


def _at(key: Any, table: Any) -> Any:
    if key not in table:
        raise ValueError(f"{key} has no entry: choose one of {', '.join(map(str, table))}, or set what depends on it")
    return table[key]


def register_resolvers() -> None:
    """``${at:key, {table}}``: the entry of a table, for numbers that depend on another key."""
    OmegaConf.register_new_resolver("at", _at, replace=True)


def nameless(arguments: list[str]) -> list[str]:
    """Arguments that give a group of ``configs/`` something that is no name: ``optimizer=null``, ``+stage=[1,2]``."""
    pairs = [argument.lstrip("+").partition("=") for argument in arguments]
    groups = [(key, value) for key, _, value in pairs if re.match(r"\w", key) and (CONFIGS / key).is_dir()]
    return [
        f"{key}={value}"
        for key, value in groups
        if not re.fullmatch(r"'?[A-Za-z_][\w,'/-]*'?|'.*'", value) or value == "null"
    ]


def one_sentence(error: BaseException) -> str:
    """The message of an error as a single line."""
    if isinstance(error, OverrideParseException):
        typed = re.sub(rf"=\{{{WRAPPED}: (.*)\}}$", r"=\1", " ".join(str(error.override).split()))
        return f"{typed}: this is no key=value; quote a value that holds signs or spaces: 'key=\"the value\"'"
    if isinstance(error, InterpolationResolutionError):
        return f"{error.full_key}: {str(error).splitlines()[0]}; where ${{ is to stay as it is, write \\${{"
    text = " ".join(re.split(r"full_key:|Config search path:|See https://hydra", str(error))[0].split())
    inner = getattr(error.__cause__, "full_key", None)
    named = rf"'{inner}'" if inner else r"\1"
    text = re.sub(
        r"('[^']*')\.? To append to your config.*", rf"{named}: there is no such key, --help lists them", text
    )
    return text or type(error).__name__


@dataclass
class Task:
    """What Hydra calls with a composed configuration, here or in a process that a launcher of its own started.

    Args:
        work: gets the resolved values.
        jobs: the names of the jobs of a sweep, as far as known; None for a single job. A job of a sweep that fails
            ends no process, and the others go on.
    """

    work: Callable[[dict[str, Any]], None]
    jobs: Sequence[str] | None = None
    wants_traceback: bool = WANTS_TRACEBACK  # not asked again in another process, where a door has set it already
    process: int = field(default_factory=os.getpid)  # which waits for the jobs, or does them
    fault: BaseException | None = None  # of a single job; whatever else Hydra raises, a word of the command is wrong

    def __call__(self, composed: DictConfig) -> None:
        register_resolvers()
        take_part_in_task()
        try:
            values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=False)
            assert isinstance(values, dict)
            self.work({str(key): unwrap(value) for key, value in values.items()})
        except Exception as error:
            if self.jobs is None:
                self.fault = error
                if isinstance(error, MISTAKES) and not self.wants_traceback:
                    end(error)
                raise
            failure = _failed(error, self.jobs, show=self.wants_traceback)
        except SystemExit:
            if self.jobs is None or os.getpid() == self.process:
                raise  # it ends the sweep as well
            failure = JobFailed(
                f"{_name(self.jobs)} ended before it was done: run the same command again", "", self.process
            )
        else:
            return
        raise failure  # out here it holds on to nothing of the job: Hydra keeps it until the last one is done


def _name(jobs: Sequence[str]) -> str:
    """The present job's."""
    number = int(HydraConfig.get().job.num)
    return jobs[number] if number < len(jobs) else f"job {number}"


def _failed(error: Exception, jobs: Sequence[str], *, show: bool) -> JobFailed:
    """What became of the present job, said at once as well: the others may take days."""
    name = _name(jobs)
    told, trace = f"{name} failed: {one_sentence(error)}", ""
    if show or not isinstance(error, MISTAKES):
        told = f"{name} failed: {type(error).__name__}: {one_sentence(error)}"
        trace = "".join(traceback.format_exception(error))
    if trace or _is_first():
        sys.stderr.write(f"{trace}{told}\n")
    return JobFailed(told, trace, os.getpid())


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def end(error: BaseException) -> NoReturn:
    """End this process with the one sentence of ``error``."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        # A launcher ends the others when one process has failed: what all of them found is then said once a machine.
        time.sleep(PATIENCE)
    rank = "" if _is_first() else f" on rank {os.environ['RANK']}"
    sys.exit(f"error{rank}: {one_sentence(error)}")


def door(
    config_name: str,
    work: Callable[[dict[str, Any]], None],
    *,
    before_sweep: Callable[[dict[str, dict[str, Any]]], None] | None = None,
    interrupted: str = "interrupted",
) -> Callable[[], None]:
    """A command: compose ``configs/<config_name>.yaml`` with the arguments and hand the resolved values to ``work``.

    A ``ValueError`` or ``OSError`` that names a user's mistake ends the process with its one sentence;
    HYDRA_FULL_ERROR=1 shows the traceback instead. ``before_sweep`` is given the values of all jobs of a sweep by
    their names, before the first of them begins, and may refuse them. ``interrupted`` is what Ctrl-C leaves to say.
    """
    register_resolvers()

    def main() -> None:
        if ASKS & set(sys.argv[1:]):
            if _is_first():
                sys.stdout.write(help_of(CONFIGS, config_name, sys.argv[1:]))
            return
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and the sentence is ours
        task = Task(work)
        try:
            _run(config_name, task, before_sweep)
        except KeyboardInterrupt:
            sys.exit(interrupted)
        except JobFailed as failure:  # the first of those that did
            if failure.process != os.getpid():  # and may have said so where nobody looks
                sys.stderr.write(failure.trace)
            end(failure)
        except Exception as error:  # Hydra's parser raises anything; a fault of the work goes on as it is
            if error is task.fault or task.wants_traceback:
                raise
            wrong = "" if isinstance(error, Refused) else " and ".join(nameless(sys.argv[1:]))
            end(ValueError(f"{wrong}: give the name of a file in that folder of configs/") if wrong else error)

    return main


def _run(config_name: str, task: Task, before_sweep: Callable[[dict[str, dict[str, Any]]], None] | None) -> None:
    sys.argv[1:] = told_to_hydra(config_name, sys.argv[1:])
    if is_sweep(sys.argv[1:]):
        # A launcher's processes start elsewhere, and are to find this package.
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CONFIGS.parent), os.environ.get("PYTHONPATH")]))
        jobs = jobs_of_sweep(str(CONFIGS), config_name, sys.argv[1:])
        task.jobs = [job.name for job in jobs]
        try:
            refuse_two_launchers(jobs)
            if before_sweep is not None:
                before_sweep({job.name: {key: unwrap(value) for key, value in job.values.items()} for job in jobs})
        except ValueError as error:
            raise Refused(str(error)) from None
    hydra.main(version_base=None, config_path=str(CONFIGS), config_name=config_name)(task)()


def told_to_hydra(config_name: str, arguments: list[str]) -> list[str]:
    """``arguments`` as Hydra wants them; ``ValueError`` where they choose two stages for one run."""
    stages = [argument for argument in arguments if re.match(r"\+{0,2}stage=", argument)]
    sweep = is_sweep(arguments)
    if len(stages) > 1 or (not sweep and any(re.fullmatch(r"\+?stage=\w+(,\w+)+", stage) for stage in stages)):
        raise Refused(f"{' and '.join(stages)}: a run has one stage, and -m +stage=1,2 makes a run of each")
    keys = plain_keys(config_name)
    told = [wrap(quote_stage(argument), keys) for argument in arguments]
    return [*told, *settings_of_sweep(config_name, told)] if sweep else told
