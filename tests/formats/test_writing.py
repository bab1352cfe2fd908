"""Where weights may be written: to new places, outside of what is read."""

from pathlib import Path
from typing import Any

import foreign
import pytest
import torch

from pixart.formats import Weights, read, write

SMALL: dict[str, Any] = {"dim": 48, "depth": 2, "side": 4, "text_dim": 20, "rows": 7}


def start(folder: Path) -> Weights:
    torch.save(foreign.fill(foreign.pixart_shapes(**SMALL)), folder / "start.pth")
    return read(folder / "start.pth", num_heads=4)


def test_a_place_that_cannot_be_made_is_1_sentence_with_its_path(tmp_path):
    weights = start(tmp_path)
    for to in ("snapshot", "diffusers"):
        with pytest.raises(ValueError, match=r"out=.*start\.pth/a cannot be written \(.*\): give another place"):
            write(weights, tmp_path / "start.pth" / "a", to=to)


def test_nothing_that_exists_is_written_over_the_source_under_3_names_least_of_all(tmp_path):
    weights = start(tmp_path)
    (tmp_path / "link.pth").symlink_to(tmp_path / "start.pth")
    (tmp_path / "hard.pth").hardlink_to(tmp_path / "start.pth")
    write(weights, tmp_path / "folder", to="diffusers")
    before = (tmp_path / "start.pth").read_bytes()
    for out, to in [("start.pth", "pixart"), ("link.pth", "pixart"), ("hard.pth", "snapshot"), ("folder", "diffusers"),
                    ("folder", "snapshot"), ("start.pth", "diffusers")]:  # fmt: skip
        with pytest.raises(ValueError, match=rf"out=.*{out} exists already \(a .*\): give a new "):
            write(weights, tmp_path / out, to=to)
    assert (tmp_path / "start.pth").read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder", "hard.pth", "link.pth", "start.pth"]


def test_nothing_is_written_into_a_folder_that_is_read(tmp_path):
    folder, autoencoder = tmp_path / "out", tmp_path / "vae"
    write(start(tmp_path), folder, to="diffusers")
    weights = read(folder)
    autoencoder.mkdir()
    for out, key in [(folder / "sub", "source"), (folder / "x" / ".." / "a.pth", "source"),
                     (autoencoder / "a", "autoencoder")]:  # fmt: skip
        with pytest.raises(ValueError, match=f"lies within {key}="):
            write(weights, out, to="diffusers-pipeline", text_encoder="shapes-t5", autoencoder=str(autoencoder))
    assert list(autoencoder.iterdir()) == []
    with pytest.raises(ValueError, match="to=onnx is not one of snapshot, pixart, diffusers, diffusers-pipeline"):
        write(weights, tmp_path / "a", to="onnx")


def test_tensors_that_share_a_storage_go_to_each_format_as_their_own(tmp_path):
    content = foreign.fill(foreign.pixart_shapes(**SMALL))
    content["blocks.0.attn.proj.weight"] = content["blocks.0.cross_attn.proj.weight"]
    torch.save(content, tmp_path / "a.pth")
    weights = read(tmp_path / "a.pth", num_heads=4)
    for out, to in [("a", "diffusers"), ("a.safetensors", "snapshot"), ("b.pth", "pixart")]:
        write(weights, tmp_path / out, to=to)
        again = read(tmp_path / out, num_heads=4)
        assert all(torch.equal(again.tensors[name], tensor) for name, tensor in weights.tensors.items())
