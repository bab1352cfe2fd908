"""Laws of a text encoder in 8 bit: nearly the same states, from a quarter of the bytes, read tensor by tensor."""

from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from torch import nn

from pixart.encoders import eight_bit
from pixart.encoders.eight_bit import EightBitLinear, read_eight_bit
from pixart.encoders.recalled import Recalled
from pixart.encoders.text import TextEncoder, load_text_encoder

CPU = torch.device("cpu")
OPEN = safetensors.safe_open
CAPTIONS = ["a red circle", "a blue square to the left of a ring", ""]


def loaded(source: str, **changes: Any) -> TextEncoder:
    return load_text_encoder(source, **{"max_tokens": 40, "cleaning": "none", "dtype": torch.float32, **changes})


def test_a_row_errs_by_at_most_1_254th_of_its_largest_weight_and_a_row_of_zeros_by_0() -> None:
    weight = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    weight[3] = 0
    layer = EightBitLinear(weight)
    found = layer(torch.eye(50)).T
    assert layer.weight.dtype == torch.int8
    assert bool(((found - weight).abs() <= weight.abs().amax(1, keepdim=True) / 253).all())
    assert found[3].abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_of_the_packaged_encoder_are_off_by_less_than_3_percent(dtype: torch.dtype) -> None:
    whole, mask = loaded("shapes-t5")(CAPTIONS)
    encoder = loaded("shapes-t5", dtype=dtype, eight_bit=True)
    states, same = encoder(CAPTIONS)
    assert torch.equal(mask, same)
    assert 0 < (states - whole).norm() < 0.03 * whole.norm()
    assert encoder.fingerprint == loaded("shapes-t5", dtype=dtype).fingerprint


def test_every_linear_layer_is_int8_and_float16_becomes_bfloat16(random_t5: Path) -> None:
    model = read_eight_bit(random_t5, torch.float16, CPU)
    assert not [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert len([module for module in model.modules() if isinstance(module, EightBitLinear)]) == 2 * 6
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_one_tensor_at_a_time_is_read_in_full_from_a_map_of_its_own(
    random_t5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed, place = [], eight_bit._place
    taken: list[int] = []  # of each time that the file is opened

    class Opened:
        def __init__(self, *told: Any, **settings: Any) -> None:
            self.file = OPEN(*told, **settings)
            taken.append(0)

        def __enter__(self) -> "Opened":
            return self

        def __exit__(self, *error: object) -> None:
            self.file.__exit__(*error)

        def keys(self) -> list[str]:
            return list(self.file.keys())

        def get_tensor(self, name: str) -> torch.Tensor:
            taken[-1] += 1
            return self.file.get_tensor(name)

    def spy(model: nn.Module, name: str, tensor: torch.Tensor, dtype: torch.dtype) -> None:
        placed.append(name)
        place(model, name, tensor, dtype)

    monkeypatch.setattr(safetensors, "safe_open", Opened)

    monkeypatch.setattr(eight_bit, "_place", spy)
    read_eight_bit(random_t5, torch.float32, CPU)
    assert len(placed) == len(set(placed)) > 12
    assert taken == [0, *[1] * len(placed)]


def test_tensors_are_rounded_on_the_device_that_the_encoder_was_told_of(
    random_t5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounded: list[str] = []
    place = eight_bit._place

    def spy(model: nn.Module, name: str, tensor: torch.Tensor, dtype: torch.dtype) -> None:
        rounded.append(tensor.device.type)
        place(model, name, tensor, dtype)

    monkeypatch.setattr(eight_bit, "_place", spy)
    monkeypatch.setattr(eight_bit, "refuse_missing", lambda *_, **__: None)  # what lies on meta counts as missing
    encoder = loaded(str(random_t5), defer=True, eight_bit=True).to("meta")
    held = [*encoder.model.parameters(), *encoder.model.buffers()]
    assert set(rounded) == {"meta"}
    assert {tensor.device.type for tensor in held} == {"meta"}
    assert torch.int8 in {tensor.dtype for tensor in held}


def test_files_that_lack_a_tensor_are_refused_with_its_name(random_t5: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    (tmp_path / "config.json").write_bytes((random_t5 / "config.json").read_bytes())
    tensors = load_file(random_t5 / "model.safetensors")
    del tensors["encoder.block.1.layer.1.DenseReluDense.wo.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"lack 1 tensors, the first is encoder\.block\.1\.layer\.1\.DenseReluDense\.wo"
    ):
        read_eight_bit(tmp_path, torch.float32, CPU)


def test_captions_are_recalled_as_they_were_encoded_to_1e_5_when_their_encoder_is_gone() -> None:
    encoder = loaded("shapes-t5")
    states, mask = encoder(CAPTIONS)
    recalled = Recalled(encoder, [*CAPTIONS, CAPTIONS[0]])
    encoder.release()
    assert "model" not in vars(encoder)
    again, same = recalled(CAPTIONS)
    assert torch.equal(mask, same)
    torch.testing.assert_close(again, states, rtol=1e-4, atol=1e-5)
