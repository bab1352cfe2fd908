"""Tensors come back bit for bit, whoever wrote them and whoever reads them."""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from pixart.training.checkpoints.host_copy import HostCopy
from pixart.training.checkpoints.pieces import KINDS, Division, Piece, PiecesReader, write_pieces
from pixart.training.processes.ranks import Ranks

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(lambda s: s != "__metadata__")
SHAPES = st.lists(st.integers(0, 4), max_size=3)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(Path(__file__).parents[2] / "layouts.py"), str(tmp_path_factory.mktemp("layouts"))],
        text=True,
        capture_output=True,
        timeout=280,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_1_process_2_with_copies_and_2_with_shards_read_each_others_checkpoints_bit_for_bit(
    mixed: subprocess.CompletedProcess[str],
) -> None:
    """And two ranks say one sentence of a full disk, and come to one verdict on a damaged file."""
    assert mixed.returncode == 0, mixed.stderr[-3000:]


def test_torch_says_0_words_while_it_writes_and_reads(mixed: subprocess.CompletedProcess[str]) -> None:
    assert (mixed.stdout, mixed.stderr) == ("", "")


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(NAMES, st.tuples(st.sampled_from(list(KINDS)), SHAPES), min_size=1, max_size=6))
def test_tensors_of_any_kind_shape_and_name_round_trip(told: dict[str, tuple[torch.dtype, list[int]]]) -> None:
    rng = np.random.default_rng(len(told))
    tensors = {name: numbers(rng, dtype, shape) for name, (dtype, shape) in told.items()}
    with TemporaryDirectory() as folder:
        write_pieces(Path(folder) / "a.safetensors", Division(Ranks()).mine(tensors))
        for found in (PiecesReader(Path(folder)).read(), load_file(Path(folder) / "a.safetensors")):
            assert {name: bits(tensor) for name, tensor in found.items()} == {
                name: bits(tensor) for name, tensor in tensors.items()
            }


def numbers(rng: np.random.Generator, dtype: torch.dtype, shape: list[int]) -> Tensor:
    """Any bits that the kind can have, those of no number too."""
    made = torch.empty(shape, dtype=dtype)
    count = made.numel() * dtype.itemsize
    if count:
        content = torch.from_numpy(rng.integers(0, 2 if dtype == torch.bool else 256, count, dtype=np.uint8))
        made.copy_(content.view(dtype).reshape(shape))
    return made


def bits(tensor: Tensor) -> tuple[torch.dtype, torch.Size, list[int]]:
    content = tensor.reshape(-1).view(torch.uint8).tolist() if tensor.numel() else []
    return tensor.dtype, tensor.shape, content


def test_a_tensor_in_3_pieces_is_read_as_1(tmp_path: Path) -> None:
    whole = torch.arange(20).reshape(5, 4)
    for i, (start, end) in enumerate([(0, 2), (2, 3), (3, 5)]):
        write_pieces(tmp_path / f"{i}.safetensors", [Piece("whole", (start, 0), whole[start:end])])
    assert torch.equal(PiecesReader(tmp_path).read()["whole"], whole)


def test_tensors_of_another_shape_are_divided_anew() -> None:
    division = Division(Ranks())
    for size in (3, 3, 4):
        tensors = {"a": torch.arange(size), "b": torch.zeros(size)}
        pieces = {piece.name: piece.tensor for piece in division.mine(tensors)}
        assert pieces.keys() == {"a", "b"}
        assert torch.equal(pieces["a"], tensors["a"])


def test_a_copy_stays_as_it_was_and_the_next_one_takes_0_bytes_more() -> None:
    copy, weights = HostCopy(), torch.ones(3)
    first = copy([Piece("weights", (0,), weights)])
    weights.add_(1)
    first.wait()
    assert first.pieces[0].tensor.tolist() == [1, 1, 1]
    place = first.pieces[0].tensor.data_ptr()
    second = copy([Piece("weights", (0,), weights)])
    assert second.pieces[0].tensor.data_ptr() == place
    assert second.pieces[0].tensor.tolist() == [2, 2, 2]
    longer: Tensor = torch.ones(4)
    assert copy([Piece("weights", (0,), longer)]).pieces[0].tensor.tolist() == [1, 1, 1, 1]
