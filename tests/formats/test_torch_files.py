import argparse
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from pixart.formats.torch_files import check_dense, load_torch


class Malicious:
    """Unpickles to the result of a shell command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "whole.pth"
    torch.save({"state_dict": {"a": torch.arange(1000.0)}, "args": argparse.Namespace(lr=1e-4)}, path)
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_and_a_namespace_come_back_from_files_of_either_age(tmp_path, zipped):
    path = tmp_path / "a.pt"
    torch.save({"a": torch.arange(3.0), "args": argparse.Namespace(lr=1)}, path, _use_new_zipfile_serialization=zipped)
    loaded = load_torch(path)
    assert torch.equal(loaded["a"], torch.arange(3.0))
    assert loaded["args"].lr == 1


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_a_pickle_that_calls_os_system_is_refused_and_nothing_is_run(tmp_path, how, protocol):
    path, mark = tmp_path / "evil.pth", tmp_path / "mark"
    content = {"state_dict": Malicious(f"touch {mark}")}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    else:
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(ValueError, match=r"evil\.pth: its pickle .* it is not opened$"):
        load_torch(path)
    assert not mark.exists()


def test_the_refusal_names_what_the_pickle_asked_for(tmp_path):
    torch.save({"a": Malicious("true")}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"asks for posix\.system"):
        load_torch(tmp_path / "evil.pth")


def test_every_truncation_is_refused_in_one_sentence(whole, tmp_path):
    content = whole.read_bytes()
    for length in (0, 1, 2, 10, 100, 1000, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.pth").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cut\.pth: (not a whole file|its pickle is not one)") as caught:
            load_torch(tmp_path / "cut.pth")
        assert "\n" not in str(caught.value)


def test_a_bomb_of_64_mb_in_64_kb_is_not_opened(whole, tmp_path):
    bomb = tmp_path / "bomb.pth"
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            if not entry.filename.endswith("data/0"):
                target.writestr(entry.filename, source.read(entry))
            else:
                with target.open(entry.filename, "w", force_zip64=True) as stream:
                    for _ in range(64):
                        stream.write(bytes(1 << 20))
    assert bomb.stat().st_size < 1 << 17
    with pytest.raises(ValueError, match="unpack to more than its own size"):
        load_torch(bomb)


def test_a_tensor_of_4_tb_over_4_stored_bytes_is_named(tmp_path):
    torch.save({"wide": torch.zeros(1).expand(1 << 40)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="tensor 'wide' claims more"):
        check_dense(tmp_path / "a.pth", load_torch(tmp_path / "a.pth"))


@pytest.mark.parametrize("value", [3, "words", torch.arange(3), torch.eye(3).to_sparse()])
def test_what_is_no_dense_tensor_of_floats_is_named(value):
    with pytest.raises(ValueError, match="'odd' is no dense tensor"):
        check_dense(Path("a.pth"), {"odd": value})


@pytest.mark.parametrize("content", [[torch.zeros(1)], {1: torch.zeros(1)}, torch.zeros(1)])
def test_a_file_without_names_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="where named tensors are expected"):
        load_torch(tmp_path / "a.pth")


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(ValueError, match=r"none\.pth: there is no such file"):
        load_torch(tmp_path / "none.pth")
