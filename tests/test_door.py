"""What a door does to its arguments before Hydra reads them."""

import sys
from typing import Any

import pytest

from pixart.door import door, plain_keys, unwrap, wrap


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
