"""PixArt's .pth and DiT's .pt, made by hand from the description of their tensors."""

import argparse
import re
from pathlib import Path
from typing import Any

import foreign
import pytest
import torch

from pixart.batch import Conditioning
from pixart.formats import load, read, write
from pixart.formats.official import read_official
from pixart.formats.positions import NOTHING, Told
from pixart.formats.table import Row

SMALL: dict[str, Any] = {"dim": 48, "depth": 2, "side": 4, "text_dim": 20, "rows": 7}


def tensors(**changes: Any) -> dict[str, torch.Tensor]:
    return foreign.fill(foreign.pixart_shapes(**{**SMALL, **changes}))


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def read_small(path: Path, content: object, **given: Any) -> Any:
    return read(save(path, content), **{"num_heads": 4, **given})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.pth"


@pytest.mark.parametrize("sizes", [False, True])
def test_kind_and_architecture_are_read_off_the_tensors(path, sizes):
    weights = read_small(path, {"state_dict": tensors(sizes=sizes, patch=4, channels=3, hidden=100, depth=3)})
    assert weights.model_config == {
        "input_size": 16, "patch_size": 4, "in_channels": 3, "out_channels": 6, "dim": 48, "depth": 3, "num_heads": 4,
        "mlp_ratio": 100 / 48, "text_dim": 20, "num_classes": None, "size_conditioning": sizes, "adaln": "single",
        "interpolation_scale": 1.0, "attention": "sdpa", "fp32_attention": False, "checkpointing": "none",
    }  # fmt: skip


def test_a_bare_file_a_state_dict_and_averaged_weights_are_found_and_the_averages_preferred(path):
    plain, averaged = tensors(), {name: tensor + 1 for name, tensor in tensors().items()}
    averaged["pos_embed"] = plain["pos_embed"]
    training = {"state_dict": plain, "state_dict_ema": averaged, "optimizer": {"state": {}}, "epoch": 3}
    for content, expected, source in [
        (plain, plain, "bare tensors"),
        ({"state_dict": plain}, plain, "state_dict"),
        (training, averaged, "state_dict_ema"),
    ]:
        weights = read_small(path, content)
        assert torch.equal(weights.tensors["t_block.1.bias"], expected["t_block.1.bias"])
        assert weights.source == f"{path}: PixArt file, {source}"
    assert Row("state_dict", "left behind", "state_dict_ema is used") in weights.rows
    assert Row("optimizer", "left behind", "state of a training") in weights.rows


def test_the_null_caption_of_averages_is_that_of_the_trained_weights_and_the_table_says_so(path):
    plain, averaged = tensors(), tensors()
    averaged["y_embedder.y_embedding"] = torch.randn(7, 20)
    weights = read_small(path, {"state_dict": plain, "state_dict_ema": averaged})
    assert torch.equal(weights.null_caption, plain["y_embedder.y_embedding"])
    assert weights.null_kind == "y_embedding"
    detail = "null_caption, from state_dict: official averages may keep a random one"
    assert Row("y_embedder.y_embedding", "renamed", detail) in weights.rows


def test_each_tensor_of_the_file_has_exactly_1_row(path):
    found = tensors(sizes=True)
    assert sorted(row.tensor for row in read_small(path, found).rows) == sorted(found)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0, 4.0, 1.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_stored_positions_tell_size_and_interpolation(path, scale, dtype):
    content = foreign.fill(foreign.pixart_shapes(**{**SMALL, "side": 8}), scale=scale)
    config = read_small(path, {name: tensor.to(dtype) for name, tensor in content.items()}).model_config
    assert config["input_size"] == 16
    assert config["interpolation_scale"] == pytest.approx(scale, rel=1e-5 if dtype == torch.float32 else 2e-2)


def test_positions_of_nobody_stop_it_unless_both_numbers_are_given(path):
    content = tensors() | {"pos_embed": torch.randn(1, 16, 48)}
    with pytest.raises(ValueError, match="tensor 'pos_embed' holds no positions"):
        read_small(path, content)
    config = read_small(path, content, input_size=8, interpolation_scale=2.0).model_config
    assert (config["input_size"], config["interpolation_scale"]) == (8, 2.0)


def test_without_positions_the_size_comes_from_a_released_name_or_must_be_given(path, tmp_path):
    content = tensors()
    del content["pos_embed"]
    with pytest.raises(ValueError, match="give input_size="):
        read_small(path, content)
    with pytest.raises(ValueError, match="give it"):
        read_small(path, content, input_size=8)
    for name, expected in {
        "PixArt-XL-2-SAM-256x256.pth": (32, 1.0),
        "PixArt-XL-2-256x256-MSCOCO-FID732.pth": (32, 1.0),
        "PixArt-XL-2-512x512.pth": (64, 1.0),
        "PixArt-XL-2-1024-MS.pth": (128, 2.0),
        "PixArt-XL-2-1024x1024.pth": (128, 2.0),
    }.items():
        config = read_small(tmp_path / name, content).model_config
        assert (config["input_size"], config["interpolation_scale"]) == expected


def test_a_released_name_whose_positions_say_otherwise_is_not_guessed_at(tmp_path):
    content, path = foreign.fill(foreign.pixart_shapes(**{**SMALL, "side": 64})), tmp_path / "PixArt-XL-2-1024-MS.pth"
    with pytest.raises(ValueError, match="interpolation 1 and the released model of that name uses 2"):
        read_small(path, content)
    assert read_small(path, content, interpolation_scale=2.0).model_config["interpolation_scale"] == 2.0


def test_heads_are_known_at_released_widths_and_must_be_given_at_others(path):
    assert read(save(path, tensors(dim=1152, depth=1))).model_config["num_heads"] == 16
    with pytest.raises(ValueError, match=r"number of heads at width 48; give num_heads="):
        read(save(path, tensors()))
    with pytest.raises(ValueError, match="num_heads=5"):
        read_small(path, tensors(), num_heads=5)


KINDS = {
    "pixart": foreign.pixart_shapes(**{**SMALL, "depth": 1}, sizes=True),
    "dit": foreign.dit_shapes(dim=48, depth=1, side=4, classes=5),
}


def misshapen(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Longer by one and twice as long on each side in turn, and with two sides more."""
    shapes = [(1, 1, tensor.numel())]
    for side, length in enumerate(tensor.shape):
        shapes += [
            (*tensor.shape[:side], new, *tensor.shape[side + 1 :]) for new in (length + 1, 2 * length, length - 1)
        ]
    return [torch.randn(shape) for shape in shapes]


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, shapes in KINDS.items() for name in sorted(shapes)])
def test_any_1_missing_renamed_or_misshapen_tensor_stops_it_and_is_the_one_that_is_named(kind, name):
    def refusal(content: dict[str, torch.Tensor]) -> str:
        with pytest.raises(ValueError, match=r"^a\.pth: ") as caught:
            read_official(Path("a.pth"), content, Told(num_heads=4), NOTHING)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    content = foreign.fill(KINDS[kind])
    tensor = content.pop(name)
    assert f"'{name}'" in refusal(content)
    assert re.search(f"'{name}x?'", refusal(content | {f"{name}x": tensor}))
    for wrong in misshapen(tensor):
        # Three shapes that are another model's: the rows of a null caption, classes, and channels without variance.
        if name in ("y_embedder.y_embedding", "y_embedder.embedding_table.weight"):
            free = wrong.ndim == 2 and wrong.shape[1] == tensor.shape[1]
        else:
            free = name == "x_embedder.proj.weight" and wrong.shape == (48, 8, 2, 2)
        if not free:
            assert f"'{name}'" in refusal(content | {name: wrong})


def test_a_tensor_too_many_is_named(path):
    for name in ("blocks.9999999.attn.qkv.weight", "controlnet.0.before_proj.weight"):
        with pytest.raises(ValueError, match=f"tensor '{name}' is unknown"):
            read_small(path, tensors(depth=1) | {name: torch.zeros(1)})


def test_a_dit_file_is_told_by_its_tensors_and_carries_its_licence(tmp_path):
    content = foreign.fill(foreign.dit_shapes(dim=48, depth=2, side=4, classes=5))
    bare = read_small(tmp_path / "bare.pt", content)
    others = {"model": tensors(), "opt": {"state": {}}, "args": argparse.Namespace(lr=1e-4)}
    trained = read_small(tmp_path / "trained.pt", others | {"ema": content})
    for weights, source in [(bare, "bare tensors"), (trained, "ema")]:
        assert weights.source.endswith(f"DiT file, {source}")
        assert weights.licence == "CC-BY-NC-4.0"
        assert {key: weights.model_config[key] for key in ("adaln", "num_classes", "text_dim")} == {
            "adaln": "per_block", "num_classes": 5, "text_dim": None,
        }  # fmt: skip
    assert {row.tensor for row in trained.rows if row.action == "left behind"} == {"model", "opt", "args", "pos_embed"}


def test_the_licence_is_inherited_through_snapshot_and_pth(tmp_path):
    weights = read_small(tmp_path / "a.pth", tensors())._replace(licence="CC-BY-NC-4.0")
    write(weights, tmp_path / "a.safetensors", to="snapshot")
    again = read(tmp_path / "a.safetensors")
    write(again, tmp_path / "b.pth", to="pixart")
    write(again, tmp_path / "c", to="diffusers")
    assert (
        again.licence == read(tmp_path / "b.pth", num_heads=4).licence == read(tmp_path / "c").licence == "CC-BY-NC-4.0"
    )


def test_load_gives_a_model_in_float32_that_is_independent_of_the_file(path):
    content = tensors()
    save(path, {name: tensor.half() for name, tensor in content.items()})
    model = load(path, num_heads=4)
    path.write_bytes(bytes(path.stat().st_size))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.t_block[1].bias, content["t_block.1.bias"].half().float())
    cond = Conditioning(tokens=torch.randn(1, 3, 20), mask=torch.ones(1, 3, dtype=torch.bool))
    assert torch.isfinite(model(torch.randn(1, 4, 8, 8), torch.tensor([7]), cond)).all()
    assert not model.training
