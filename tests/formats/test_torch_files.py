import argparse
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from pixart.formats.torch_files import check_dense, check_values, load_torch


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


def repacked(whole: Path, out: Path, change) -> Path:
    """The archive with ``change(name, content)`` in place of each record."""
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            target.writestr(name, change(name, source.read(name)))
    return out


@pytest.mark.parametrize("length", [3990, 3999, 4001, 8000])
def test_a_record_shorter_or_longer_than_its_4000_bytes_is_refused(whole, tmp_path, length):
    out = repacked(whole, tmp_path / "a.pth", lambda name, x: (x * 2)[:length] if name.endswith("data/0") else x)
    with pytest.raises(ValueError, match=rf"data/0 holds {length} bytes and the tensors over it need 4000"):
        load_torch(out)


def test_storages_of_8_kinds_have_records_of_their_length(tmp_path):
    kinds = [torch.float64, torch.bfloat16, torch.int16, torch.bool, torch.uint16, torch.float8_e4m3fn, torch.complex64]
    content = {str(kind): torch.zeros(3).to(kind) for kind in kinds} | {"none": torch.zeros(0)}
    torch.save(content | {"of": torch.nn.Parameter(torch.ones(2))}, tmp_path / "a.pth")
    assert len(load_torch(tmp_path / "a.pth")) == 9


def test_1_byte_that_fell_over_is_found_by_its_checksum_where_there_are_any(whole, tmp_path):
    content = bytearray(whole.read_bytes())
    content[content.index(torch.arange(1000.0).numpy().tobytes()) + 100] ^= 1
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ValueError, match="its record whole/data/0 does not have its checksum"):
        load_torch(tmp_path / "a.pth")
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(3)}, tmp_path / "b.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(load_torch(tmp_path / "b.pth")["a"], torch.ones(3))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_2_records_of_one_name_are_not_opened(whole):
    with zipfile.ZipFile(whole, "a") as archive:
        archive.writestr("whole/data/0", bytes(10))
    with pytest.raises(ValueError, match="two records of one name"):
        load_torch(whole)


@pytest.mark.parametrize(
    ("tensor", "sentence"),
    [
        (torch.tensor([0.0, torch.nan]), "'odd' holds NaN or infinity"),
        (torch.tensor([torch.inf]).half(), "'odd' holds NaN or infinity"),
        (torch.tensor([1e300], dtype=torch.float64), "'odd' holds numbers beyond float32"),
        (torch.zeros(2, device="meta"), "'odd' has a shape and no numbers"),
    ],
)
def test_what_float32_cannot_hold_is_named_and_let_in_when_asked_but_never_a_tensor_without_numbers(tensor, sentence):
    tensors = {"even": torch.zeros(0), "odd": tensor}
    with pytest.raises(ValueError, match=rf"a\.pth: tensor {sentence}"):
        check_values(Path("a.pth"), tensors, allow_nonfinite=False)
    if not tensor.is_meta:
        check_values(Path("a.pth"), tensors, allow_nonfinite=True)


def test_a_name_of_100000_letters_is_cut_its_control_characters_written_out_and_no_text_refused():
    for name, shown in [
        ("e" * 100_000, "'e{120}… "),
        ("evil\n\x1b[31m", r"'evil\\n\\x1b\[31m'"),
        (3, "named '3', which is"),
    ]:
        with pytest.raises(ValueError, match=shown) as caught:
            check_dense(Path("a.pth"), {name: 3})
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "value", [3, "words", torch.arange(3), torch.eye(3).to_sparse(), torch.zeros(2).to(torch.float8_e4m3fn)]
)
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
