"""Files of PixArt that contradict what is given, or hold what no model does."""

from pathlib import Path
from typing import Any

import foreign
import pytest
import torch

from pixart.formats import read, write
from pixart.formats.table import Row

SMALL: dict[str, Any] = {"dim": 48, "depth": 2, "side": 4, "text_dim": 20, "rows": 7}


def tensors() -> dict[str, torch.Tensor]:
    return foreign.fill(foreign.pixart_shapes(**SMALL))


def read_small(path: Path, content: object, **given: Any) -> Any:
    torch.save(content, path)
    return read(path, **{"num_heads": 4, **given})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.pth"


@pytest.mark.parametrize(("key", "shown", "given"), [("input_size", 8, 16), ("interpolation_scale", 1, 2.0)])
def test_a_number_given_against_what_the_positions_show_is_refused_with_both(path, key, shown, given):
    with pytest.raises(ValueError, match=rf"'pos_embed' shows {key} {shown}, and {key}={given:g} was given: leave it"):
        read_small(path, tensors(), **{key: given})
    assert read_small(path, tensors(), **{key: shown}).model_config[key] == shown
    write(read_small(path, tensors()), path.with_suffix(".safetensors"), to="snapshot")
    with pytest.raises(ValueError, match=rf"says {key} is {shown}.*, and {key}={given} was given: leave it out"):
        read(path.with_suffix(".safetensors"), **{key: given})


def test_the_prefix_of_a_wrapped_model_is_taken_off_and_the_table_says_so(path):
    def wrapped(content: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {f"module.{name}": tensor for name, tensor in content.items()}

    averaged = tensors() | {"y_embedder.y_embedding": torch.randn(7, 20)}
    for content in (wrapped(tensors()), {"state_dict": wrapped(tensors()), "state_dict_ema": wrapped(averaged)}):
        weights = read_small(path, content)
        assert torch.equal(weights.null_caption, tensors()["y_embedder.y_embedding"])
        assert Row("module.*", "renamed", "*: the prefix of a wrapped model is taken off") in weights.rows


def test_a_null_caption_of_0_rows_names_without_letters_and_nan_are_refused(path):
    for change, sentence in [
        ({"y_embedder.y_embedding": torch.zeros(0, 20)}, r"'y_embedder.y_embedding' is \(0, 20\)"),
        ({3: torch.zeros(1)}, "named '3', which is no text"),
        ({"t_block.1.bias": torch.full((288,), torch.nan)}, "'t_block.1.bias' holds NaN"),
        ({"y_embedder.y_embedding": torch.full((7, 20), torch.inf)}, "'null_caption' holds NaN or infinity"),
        ({"t_block.1.bias": torch.zeros(288, device="meta")}, "'t_block.1.bias' has a shape and no numbers"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            read_small(path, {"state_dict": tensors() | change})
    odd = tensors() | {"t_block.1.bias": torch.full((288,), torch.nan)}
    assert read_small(path, odd, allow_nonfinite=True).tensors["t_block.1.bias"].isnan().all()
