"""What every door does: Hydra in, one sentence out. The only file of the package that knows Hydra."""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

WANTS_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"  # asked of Hydra, before a door sets it for itself
WRAPPED = "_value"
CONFIGS = Path(__file__).resolve().parents[1] / "configs"


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
    groups = [(key, value) for key, _, value in pairs if key and (CONFIGS / key).is_dir()]
    return [
        f"{key}={value}"
        for key, value in groups
        if not re.fullmatch(r"'?[A-Za-z_][\w,'/-]*'?|'.*'", value) or value == "null"
    ]


def one_sentence(error: BaseException) -> str:
    """The message of an error as a single line."""
    text = " ".join(re.split(r"full_key:|Config search path:|See https://hydra", str(error))[0].split())
    text = re.sub(r"\.? To append to your config.*", ": there is no such key, --cfg job lists them", text)
    return text or type(error).__name__


def door(config_name: str, task: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
    """A command: compose ``configs/<config_name>.yaml`` with the arguments and hand the resolved values to ``task``.

    A ``ValueError`` or ``OSError`` that names a user's mistake ends the process with its one sentence;
    HYDRA_FULL_ERROR=1 shows the traceback instead.
    """
    register_resolvers()
    composing = [True]  # until the task is called: whatever Hydra raises by then, a word of the command line is wrong

    def fail(error: BaseException) -> None:
        if WANTS_TRACEBACK:
            raise error
        rank = os.environ.get("RANK", "0")
        sys.exit(f"error{'' if rank == '0' else f' on rank {rank}'}: {one_sentence(error)}")

    def run(composed: DictConfig) -> None:
        try:
            values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=False)
            assert isinstance(values, dict)
            composing[0] = False
            task({str(key): unwrap(value) for key, value in values.items()})
        except (ValueError, OSError, OmegaConfBaseException) as error:
            fail(error)

    def main() -> None:
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and the sentence is ours
        keys = plain_keys(config_name)
        sys.argv[1:] = [wrap(quote_stage(argument), keys) for argument in sys.argv[1:]]
        try:
            hydra.main(version_base=None, config_path=str(CONFIGS), config_name=config_name)(run)()
        except KeyboardInterrupt:
            sys.exit("interrupted")
        except Exception as error:  # Hydra's parser raises anything; a fault of the task goes on as it is
            if not composing[0]:
                raise
            wrong = " and ".join(nameless(sys.argv[1:]))
            fail(ValueError(f"{wrong}: give the name of a file in that folder of configs/") if wrong else error)

    return main
