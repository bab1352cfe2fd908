"""The ready files of configs/accelerate: Accelerate takes each, and the run reads from each what it is to."""

from argparse import Namespace
from pathlib import Path

import pytest

from pixart.training.processes.launcher import Launcher, read_launcher

FILES = Path(__file__).parents[3] / "configs" / "accelerate"


def launched(name: str) -> Namespace:
    """What ``accelerate launch --config_file`` makes of a file."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    file = str(FILES / f"{name}.yaml")
    load_config_from_file(file)  # raises for an unknown key
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(["--config_file", file, "train.py"]))
    return arguments


@pytest.mark.parametrize(("name", "processes"), [("one_gpu", 1), ("eight_gpus", 8), ("several_nodes", 16), ("fsdp", 8)])
def test_each_file_starts_as_many_processes_as_it_says(name: str, processes: int) -> None:
    assert launched(name).num_processes == processes


def test_there_is_no_fifth_file_without_a_test() -> None:
    assert sorted(file.stem for file in FILES.iterdir()) == ["eight_gpus", "fsdp", "one_gpu", "several_nodes"]


def test_the_fsdp_file_asks_for_full_shard_and_nothing_that_is_refused() -> None:
    from accelerate.utils.launch import prepare_multi_gpu_env

    environ = prepare_multi_gpu_env(launched("fsdp"))
    environ |= {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8"}  # torchrun, inside
    assert read_launcher(environ) == Launcher(8, 8, fsdp=True, kind="full_shard")


def test_the_others_ask_for_no_sharding() -> None:
    from accelerate.utils.launch import prepare_multi_gpu_env

    assert read_launcher({**prepare_multi_gpu_env(launched("eight_gpus")), "WORLD_SIZE": "8"}) == Launcher(8, None)
