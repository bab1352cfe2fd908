"""What a door does to its arguments before Hydra reads them."""

import sys
from typing import Any

import pytest

from pixart import door as door_module
from pixart.door import Refused, door, end, plain_keys, told_to_hydra, unwrap, wrap


def told(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> dict[str, Any]:
    heard: dict[str, Any] = {}
    monkeypatch.setattr(sys, "argv", ["door", *arguments])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # the door sets it; here it must not outlive the test
    door(name, heard.update)()
    return heard


@pytest.mark.parametrize("value", ["shapes-t5", "/data/t5", "DeepFloyd/t5-v1_1-xxl", "../a.b/c_d", "null"])
def test_a_key_named_as_a_group_takes_any_of_5_values(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    heard = told(monkeypatch, "sample", "weights=w", f"text_encoder={value}", f"autoencoder='{value}'")
    assert heard["text_encoder"] == (None if value == "null" else value)
    assert heard["autoencoder"] == value
    assert heard["weights"] == "w"


def test_only_keys_that_are_groups_elsewhere_are_wrapped_and_0_of_train() -> None:
    assert plain_keys("train") == set()
    assert plain_keys("sample") == {"text_encoder", "autoencoder"}
    assert wrap("seed=3", {"text_encoder"}) == "seed=3"
    assert wrap("--cfg", {"text_encoder"}) == "--cfg"
    assert unwrap({"a": 1}) == {"a": 1}


def test_ctrl_c_ends_with_the_sentence_of_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(_: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["door", "weights=w"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    for told, sentence in (({}, "interrupted"), ({"interrupted": "what is lost"}, "what is lost")):
        with pytest.raises(SystemExit) as ended:
            door("sample", work, **told)()
        assert ended.value.code == sentence


@pytest.mark.parametrize(
    ("name", "argument", "key"),
    [
        ("sample", "low_memroy=true", "low_memroy"),
        ("benchmark", "suites.tiny.model.dmi=3", "suites.tiny.model.dmi"),
        ("benchmark", "suites.tiny.text={dmi: 3}", "suites.tiny.text.dmi"),
    ],
)
def test_a_misspelt_key_is_named_whole(monkeypatch: pytest.MonkeyPatch, name: str, argument: str, key: str) -> None:
    with pytest.raises(
        SystemExit, match=rf"^error: Could not override '{key}': there is no such key, --help lists them$"
    ):
        told(monkeypatch, name, *(["suite=tiny"] if name == "benchmark" else []), argument)


def test_a_dollar_sign_before_a_brace_is_taken_for_a_key_that_is_named_and_can_be_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(SystemExit, match=r"^error: prompts\[0\]: .*'b' not found; where \$\{ .* write \\\$\{$"):
        told(monkeypatch, "sample", "weights=w", 'prompts=["a ${b}"]')
    assert told(monkeypatch, "sample", "weights=w", r'prompts=["a \${b}"]')["prompts"] == ["a ${b}"]


@pytest.mark.parametrize("arguments", [["+stage=2", "+stage=3"], ["+stage=1,2"], ["stage='1'", "+stage=2"]])
def test_2_stages_for_1_run_are_refused_and_a_sweep_over_them_is_not(arguments: list[str]) -> None:
    with pytest.raises(Refused, match=r"a run has one stage, and -m \+stage=1,2 makes a run of each"):
        told_to_hydra("train", arguments)
    assert told_to_hydra("train", ["+stage=2", "seed=1,2"]) == ["stage='2'", "seed=1,2"]
    assert told_to_hydra("train", ["-m", "+stage=1,2"])[1] == "stage='1','2'"


def test_the_second_rank_of_a_machine_waits_2_seconds_to_say_what_the_first_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(door_module.time, "sleep", waited.append)
    for rank, local in (("0", "0"), ("9", "1"), ("8", "0")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", local)
        with pytest.raises(SystemExit) as ended:
            end(ValueError("no"))
        assert ended.value.code == ("error: no" if rank == "0" else f"error on rank {rank}: no")
    assert waited == [2.0]
