"""What is written tensor by tensor is what safetensors itself would have written."""

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from pixart.formats.tensor_file import write_tensors

KINDS = [torch.float16, torch.float64, torch.bfloat16, torch.float32]


def test_safetensors_reads_every_bit_of_4_kinds_views_scalars_and_nothing_at_all(tmp_path):
    wide = torch.randn(6, 5)
    tensors = {f"{i}": torch.randn(3, i, dtype=torch.float64).to(kind) for i, kind in enumerate(KINDS)}
    tensors |= {"turned": wide.T, "part": wide[2:4], "other part": wide[4:], "one": torch.tensor(2.5)}
    tensors["a name of 13 ä"] = torch.randn(1, requires_grad=True)
    write_tensors(tmp_path / "a.safetensors", tensors, metadata={"format": "pt", "ü": '{"a": 1}'})
    again = load_file(tmp_path / "a.safetensors")
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())
    assert {name: tensor.dtype for name, tensor in again.items()} == {name: x.dtype for name, x in tensors.items()}
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "ü": '{"a": 1}'}


def test_the_numbers_of_each_kind_lie_at_multiples_of_their_size(tmp_path):
    tensors = {str(kind): torch.ones(1, dtype=kind) for kind in KINDS}
    write_tensors(tmp_path / "a.safetensors", tensors, metadata={})
    content = (tmp_path / "a.safetensors").read_bytes()
    assert int.from_bytes(content[:8], "little") % 8 == 0
    assert content[-16:-8] == torch.ones(1, dtype=torch.float64).numpy().tobytes()


def test_2_orders_of_the_same_tensors_make_the_same_file(tmp_path):
    tensors = {"b": torch.ones(2), "a": torch.zeros(3), "c": torch.ones(1).half()}
    write_tensors(tmp_path / "a.safetensors", tensors, metadata={})
    write_tensors(tmp_path / "b.safetensors", dict(reversed(tensors.items())), metadata={})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_kind_asked_for_is_that_of_every_tensor_and_the_tensors_themselves_keep_theirs(tmp_path):
    tensors = {"a": torch.randn(3).half(), "b": torch.randn(2).bfloat16()}
    write_tensors(tmp_path / "a.safetensors", tensors, metadata={}, dtype=torch.float32)
    again = load_file(tmp_path / "a.safetensors")
    assert all(again[name].dtype == torch.float32 for name in tensors)
    assert all(torch.equal(again[name], tensor.float()) for name, tensor in tensors.items())
    assert [tensor.dtype for tensor in tensors.values()] == [torch.float16, torch.bfloat16]
