"""The launcher's FSDP settings are honoured, or refused in one sentence, and hidden from who would misread them."""

import pytest

from pixart.training.processes.launcher import Launcher, read_launcher
from pixart.training.processes.sharding import Sharding, decided

FSDP = {
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "4",
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_SHARDING_STRATEGY": "FULL_SHARD",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_MIN_NUM_PARAMS": "100000000",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "PixArtBlock",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_FORWARD_PREFETCH": "false",
    "FSDP_USE_ORIG_PARAMS": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
    "FSDP_SYNC_MODULE_STATES": "true",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",
    "FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD": "false",
}  # all that accelerate 1.15 sets for a file with distributed_type: FSDP


def sharding(asked: str, checkpointing: str = "blocks", **changed: str) -> Sharding:
    return decided(asked, read_launcher({**FSDP, **changed}), checkpointing=checkpointing)  # type: ignore[arg-type]


def test_a_launcher_without_fsdp_asks_for_nothing_and_one_alone_has_1_process() -> None:
    assert read_launcher({}) == Launcher(1, None)
    environ = {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "FSDP_OFFLOAD_PARAMS": "true"}
    assert decided("auto", read_launcher(environ), checkpointing="none") == Sharding("none")


def test_auto_takes_the_2_kinds_that_an_accelerate_file_can_ask_for() -> None:
    assert sharding("auto") == Sharding("full_shard")
    assert sharding("auto", FSDP_RESHARD_AFTER_FORWARD="false") == Sharding("shard_grad_op")


def test_the_wish_is_taken_out_of_the_environment_and_the_rest_left() -> None:
    environ = dict(FSDP)
    read_launcher(environ)
    assert FSDP.keys() - environ.keys() == {"ACCELERATE_USE_FSDP"}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("FSDP_VERSION", "1", "fsdp_version=1: set fsdp_version: 2"),
        ("FSDP_OFFLOAD_PARAMS", "true", "fsdp_offload_params=true: set it to false"),
        ("FSDP_FORWARD_PREFETCH", "true", "fsdp_forward_prefetch=true"),
        ("FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD", "true", "fsdp_activation_checkpointing_offload=true"),
        ("FSDP_AUTO_WRAP_POLICY", "SIZE_BASED_WRAP", "set TRANSFORMER_BASED_WRAP"),
        ("FSDP_TRANSFORMER_CLS_TO_WRAP", "T5Block", "cls_to_wrap=T5Block: set PixArtBlock"),
        ("FSDP_IGNORED_MODULES", "y_embedder", "fsdp_ignored_modules=y_embedder"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "sharding=hybrid_shard"),
    ],
)
def test_a_setting_that_cannot_be_had_is_refused_with_its_mend(name: str, value: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"cannot be had: .*{words}") as refused:
        sharding("auto", **{name: value})
    assert "\n" not in str(refused.value)
    assert sharding("none", **{name: value}).kind == "none"  # nothing is asked of FSDP then


def test_2_settings_that_cannot_be_had_are_1_sentence() -> None:
    with pytest.raises(ValueError, match=r"fsdp_version=1: .*; fsdp_offload_params=true: "):
        sharding("auto", FSDP_VERSION="1", FSDP_OFFLOAD_PARAMS="true")


def test_asked_to_compute_activations_again_the_model_must_be_set_so() -> None:
    assert sharding("auto", FSDP_ACTIVATION_CHECKPOINTING="true").kind == "full_shard"
    with pytest.raises(ValueError, match=r"set model\.checkpointing=blocks"):
        sharding("auto", checkpointing="none", FSDP_ACTIVATION_CHECKPOINTING="true")


def test_against_the_launcher_the_key_decides_and_it_is_said() -> None:
    plain = sharding("none")
    assert plain.kind == "none"
    assert plain.said is not None
    assert "full_shard" in plain.said
    assert "sharding=none" in plain.said
    assert sharding("full_shard", FSDP_VERSION="1") == Sharding("full_shard")


def test_the_mesh_of_hybrid_shard_is_machines_times_their_processes() -> None:
    def hybrid(world: int, local: int | None) -> Sharding:
        return decided("hybrid_shard", Launcher(world, local), checkpointing="none")

    assert hybrid(8, 4) == Sharding("hybrid_shard", machines=2)
    assert hybrid(8, 8).kind == "full_shard"
    assert hybrid(8, 1).kind == "none"
    for world, local in ((8, 3), (8, None)):
        with pytest.raises(ValueError, match="LOCAL_WORLD_SIZE"):
            hybrid(world, local)


@pytest.mark.parametrize("asked", ["full_shard", "shard_grad_op", "hybrid_shard"])
def test_1_process_has_nothing_to_share_out_and_it_is_said(asked: str) -> None:
    alone = decided(asked, Launcher(1, None), checkpointing="none")  # type: ignore[arg-type]
    assert alone.kind == "none"
    assert alone.said == f"sharding={asked} with one process: there is nothing to share out"
