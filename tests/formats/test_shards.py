"""Folders whose index and shards contradict each other."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pixart.formats.shards import INDEX, read_object, read_shards

ONE, TWO = "a-00001-of-00002.safetensors", "a-00002-of-00002.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file({"x": torch.zeros(2), "y": torch.ones(3)}, tmp_path / ONE, metadata={"licence": "free"})
    save_file({"z": torch.zeros(1)}, tmp_path / TWO)
    place(tmp_path, {"x": ONE, "y": ONE, "z": TWO})
    return tmp_path


def place(folder: Path, placed: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": placed}))


def test_3_tensors_of_2_shards_are_1_set_with_the_licence_of_whichever_has_it(folder):
    tensors, licence = read_shards(folder)
    assert {name: len(tensor) for name, tensor in tensors.items()} == {"x": 2, "y": 3, "z": 1}
    assert licence == "free"


@pytest.mark.parametrize(
    ("placed", "sentence"),
    [
        ({"x": ONE, "y": TWO, "z": TWO}, f"{ONE}: tensor 'y' is said to be in {TWO}"),
        ({"x": ONE, "z": TWO}, f"{ONE}: tensor 'y' is not in the index"),
        ({"x": ONE, "y": ONE, "z": TWO, "w": TWO}, f"{TWO}: tensor 'w' of the index is missing"),
        ({"x": ONE, "y": ONE, "z": "../a"}, "names no shards"),
        ([], "names no shards"),
    ],
)
def test_each_of_5_indices_that_are_wrong_is_refused_by_tensor(folder, placed, sentence):
    place(folder, placed)
    with pytest.raises(ValueError, match=sentence):
        read_shards(folder)


def test_a_tensor_in_2_shards_is_refused(folder):
    save_file(load_file(folder / TWO) | {"x": torch.ones(2)}, folder / TWO)
    with pytest.raises(ValueError, match=f"{TWO}: tensor 'x' is said to be in {ONE}"):
        read_shards(folder)


@pytest.mark.timeout(20)
def test_a_pipe_in_place_of_a_shard_or_a_configuration_is_not_waited_for(folder):
    for name, reader in ((TWO, read_shards), (INDEX, lambda folder: read_object(folder / INDEX))):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(ValueError, match=f"{name}: there is no such file"):
            reader(folder)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\0", b"[" * 100_000])
def test_what_is_no_json_is_said_in_plain_words(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json is not readable as JSON; get the folder again$"):
        read_object(tmp_path / "a.json")
