import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pixart.models.dit import PixArt


def save(path: Path, model: PixArt, **changes: object) -> Path:
    """A snapshot of ``model``, by hand; ``changes`` replace tensors, or drop them with None."""
    tensors = {name: tensor for name, tensor in (model.state_dict() | changes).items() if tensor is not None}
    save_file(tensors, path, metadata={"format": "pixart-snapshot", "model": json.dumps(model.config)})
    return path


def test_from_pretrained_gives_the_same_output_to_the_bit(small, randomise, captioned, x_t, t, tmp_path):
    model = randomise(small(size_conditioning=True))
    path = save(tmp_path / "a.safetensors", model, null_caption=torch.zeros(1, 20))
    again = PixArt.from_pretrained(path)
    assert torch.equal(again(x_t, t, captioned), model(x_t, t, captioned))
    assert again.config == model.config
    assert not again.training
    assert all(parameter.requires_grad for parameter in again.parameters())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"t_block.1.bias": None}, "tensor 't_block.1.bias' is missing"),
        ({"extra": torch.zeros(1)}, "tensor 'extra' is unknown"),
        ({"t_block.1.bias": torch.zeros(3)}, r"tensor 't_block.1.bias' is \(3,\), not \(288,\)"),
    ],
)
def test_a_wrong_tensor_is_named(small, tmp_path, changes, words):
    path = save(tmp_path / "a.safetensors", small(), **changes)
    with pytest.raises(ValueError, match=words):
        PixArt.from_pretrained(path)


def test_a_missing_truncated_or_foreign_file_is_said_in_one_sentence(small, tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        PixArt.from_pretrained(tmp_path / "none.safetensors")
    whole = save(tmp_path / "a.safetensors", small())
    (tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        PixArt.from_pretrained(tmp_path / "cut.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="not a snapshot of ours"):
        PixArt.from_pretrained(tmp_path / "other.safetensors")


def test_a_snapshot_of_an_unknown_model_is_said_in_one_sentence(small, tmp_path):
    model = small()
    model.config["wings"] = 2
    with pytest.raises(ValueError, match="cannot be built"):
        PixArt.from_pretrained(save(tmp_path / "a.safetensors", model))


@pytest.mark.parametrize(("before", "now"), [(True, "blocks"), (False, "none")])
def test_a_snapshot_of_a_version_with_2_ways_of_checkpointing_is_read_under_the_name_of_today(
    small, tmp_path, before, now
):
    model = small()
    del model.config["checkpointing"]
    model.config["checkpoint_blocks"] = before
    again = PixArt.from_pretrained(save(tmp_path / "a.safetensors", model))
    assert again.config == small(checkpointing=now).config
    model.config["checkpoint_blocks"] = "some"
    with pytest.raises(ValueError, match="cannot be built"):
        PixArt.from_pretrained(save(tmp_path / "a.safetensors", model))
