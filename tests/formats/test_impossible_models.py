"""Configurations that no model can have."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixart.formats.snapshot import read_snapshot, write_snapshot
from pixart.models.dit import PixArt
from pixart.models.numbers import check_config, is_ratio


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_heads", 0), ("patch_size", 0), ("depth", 10**9), ("dim", 384.5), ("dim", "x"), ("input_size", 10**9),
        ("interpolation_scale", 0), ("interpolation_scale", -1.0), ("interpolation_scale", math.nan),
        ("mlp_ratio", "x"), ("mlp_ratio", math.inf), ("text_dim", 0), ("num_classes", -1), ("depth", True),
        ("size_conditioning", "no"), ("bogus", 1), ("dim", None), ("checkpointing", "some"), ("checkpointing", True),
        ("checkpoint_blocks", True), ("adaln", ["single"]),
    ],
)  # fmt: skip
def test_each_of_21_values_that_are_none_is_named_before_a_model_is_built(trained, tmp_path, key, value):
    model = trained()
    write_snapshot(
        tmp_path / "a.safetensors", model.state_dict(), model_config=model.config | {key: value}, run_config={},
        stamps={}, step=0, samples_seen=0,
    )  # fmt: skip
    with pytest.raises(ValueError, match=rf"a\.safetensors: the model it describes cannot be built: '?{key}") as caught:
        read_snapshot(tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="the model it describes cannot be built"):
        PixArt.from_pretrained(tmp_path / "a.safetensors")


def test_a_configuration_of_a_model_passes_and_one_without_a_key_does_not(small):
    config = small().config
    check_config("a", config, known=config)
    for key in config:
        with pytest.raises(ValueError, match=f"it has no {key}"):
            check_config("a", {name: value for name, value in config.items() if name != key}, known=config)


@given(value=st.one_of(st.floats(), st.integers(), st.booleans(), st.text(), st.none()))
def test_a_ratio_is_a_number_between_one_1024th_and_1024(value):
    number = isinstance(value, int | float) and not isinstance(value, bool)
    assert is_ratio(value) == (number and 1 / 1024 <= value <= 1024)
