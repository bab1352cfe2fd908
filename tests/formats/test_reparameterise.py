"""A DiT written down from its paper (arXiv 2212.09748, adaLN-Zero), and what becomes of it."""

import math
from pathlib import Path

import foreign
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pixart.batch import Conditioning
from pixart.formats import read
from pixart.formats.handoff import hand_off
from pixart.formats.table import Row

DIM, DEPTH, HEADS, SIDE, CLASSES = 48, 3, 4, 4, 5
STAGE_1 = {"text_dim": None, "num_classes": CLASSES, "depth": DEPTH}
SHARED = ["first", "mean", "fresh"]


class DiT:
    """``dit(x (N, 4, H, W), t (N,), label (N,) or None)``, computed from the tensors of a .pt file."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def condition(self, t: Tensor, label: Tensor | None) -> Tensor:
        frequencies = torch.exp(-math.log(10000) * torch.arange(128) / 128)
        angles = t[:, None].float() * frequencies
        code = torch.cat([angles.cos(), angles.sin()], dim=1)
        c = self.linear("t_embedder.mlp.2", F.silu(self.linear("t_embedder.mlp.0", code)))
        return c if label is None else c + self.tensors["y_embedder.embedding_table.weight"][label]

    def attention(self, name: str, x: Tensor) -> Tensor:
        n, tokens, dim = x.shape
        q, k, v = self.linear(f"{name}.qkv", x).view(n, tokens, 3, HEADS, dim // HEADS).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / math.sqrt(dim // HEADS)).softmax(-1)
        return self.linear(f"{name}.proj", (weights @ v).transpose(1, 2).reshape(n, tokens, dim))

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        n, _, height, width = x.shape
        h, w = height // 2, width // 2
        x = F.conv2d(x, self.tensors["x_embedder.proj.weight"], self.tensors["x_embedder.proj.bias"], stride=2)
        x = x.flatten(2).transpose(1, 2) + self.tensors["pos_embed"]
        c = F.silu(self.condition(t, label))
        for i in range(DEPTH):
            parts = self.linear(f"blocks.{i}.adaLN_modulation.1", c)[:, None].chunk(6, dim=2)
            shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = parts
            normed = F.layer_norm(x, (DIM,), eps=1e-6) * (1 + scale_msa) + shift_msa
            x = x + gate_msa * self.attention(f"blocks.{i}.attn", normed)
            normed = F.layer_norm(x, (DIM,), eps=1e-6) * (1 + scale_mlp) + shift_mlp
            hidden = F.gelu(self.linear(f"blocks.{i}.mlp.fc1", normed), approximate="tanh")
            x = x + gate_mlp * self.linear(f"blocks.{i}.mlp.fc2", hidden)
        shift, scale = self.linear("final_layer.adaLN_modulation.1", c)[:, None].chunk(2, dim=2)
        x = self.linear("final_layer.linear", F.layer_norm(x, (DIM,), eps=1e-6) * (1 + scale) + shift)
        return x.view(n, h, w, 2, 2, 8).permute(0, 5, 1, 3, 2, 4).reshape(n, 8, height, width)


@pytest.fixture(scope="module")
def dit_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dit") / "dit.pt"
    torch.save(foreign.fill(foreign.dit_shapes(dim=DIM, depth=DEPTH, side=SIDE, classes=CLASSES)), path)
    return path


@pytest.fixture(scope="module")
def dit(dit_file: Path) -> DiT:
    return DiT(torch.load(dit_file, weights_only=True))


def words(n: int, **others: Tensor) -> Conditioning:
    return Conditioning(tokens=torch.randn(n, 6, 20), mask=torch.ones(n, 6, dtype=torch.bool), **others)


def difference(output: Tensor, expected: Tensor) -> float:
    return float(((output - expected).abs().max() / expected.abs().max()).detach())


def test_our_per_block_model_is_that_dit_at_every_t_and_class_to_1e_5(dit_file, dit, small):
    model = small(**STAGE_1, adaln="per_block")
    hand_off(read(dit_file, num_heads=HEADS), model)
    x, t, label = torch.randn(4, 4, 8, 8), torch.tensor([0, 250, 500, 999]), torch.tensor([0, 3, 4, CLASSES])
    assert difference(model(x, t, Conditioning(label=label)), dit(x, t, label)) <= 1e-5


@pytest.mark.parametrize("shared", SHARED)
def test_stage_2_equals_dit_without_class_at_t_500_to_1e_5_and_differs_elsewhere(dit_file, dit, small, shared):
    model = small(depth=DEPTH)
    hand_off(read(dit_file, num_heads=HEADS), model, shared_mlp=shared)
    x, at_500 = torch.randn(3, 4, 8, 8), torch.full((3,), 500)
    assert difference(model(x, at_500, words(3)), dit(x, at_500)) <= 1e-5
    for t in (0, 250, 499, 999):
        elsewhere = torch.full((3,), t)
        assert difference(model(x, elsewhere, words(3)), dit(x, elsewhere)) > 1e-4


@pytest.mark.parametrize("shared", SHARED)
def test_at_xl_2_s_width_they_meet_at_t_500_to_1e_5_too(tmp_path, small, shared, monkeypatch):
    for name, value in {"DIM": 1152, "DEPTH": 1, "HEADS": 16}.items():
        monkeypatch.setitem(globals(), name, value)
    torch.save(foreign.fill(foreign.dit_shapes(depth=1, side=SIDE, classes=CLASSES), std=0.03), tmp_path / "dit.pt")
    model, wide = small(dim=1152, num_heads=16, depth=1), DiT(torch.load(tmp_path / "dit.pt"))
    hand_off(read(tmp_path / "dit.pt"), model, shared_mlp=shared)
    x, at_500 = torch.randn(2, 4, 8, 8), torch.full((2,), 500)
    assert difference(model(x, at_500, words(2)), wide(x, at_500)) <= 1e-5
    assert difference(model(x, at_500 - 250, words(2)), wide(x, at_500 - 250)) > 1e-4


@pytest.mark.parametrize("shared", SHARED)
def test_stage_1_keeps_its_classes_and_equals_dit_at_t_500_where_none_is_told(dit_file, dit, small, shared):
    model = small(**STAGE_1)
    rows = hand_off(read(dit_file, num_heads=HEADS), model, shared_mlp=shared)
    x, at_500 = torch.randn(2, 4, 8, 8), torch.full((2,), 500)
    assert difference(model(x, at_500, Conditioning()), dit(x, at_500)) <= 1e-5
    assert torch.equal(model.y_embedder.embedding_table.weight, dit.tensors["y_embedder.embedding_table.weight"])
    assert Row("y_embedder.embedding_table.weight", "copied", "") in rows


def test_new_size_conditioning_and_another_size_leave_the_meeting_at_t_500(dit_file, dit, small):
    model = small(depth=DEPTH, size_conditioning=True, input_size=16)
    rows = hand_off(read(dit_file, num_heads=HEADS), model, shared_mlp="first")
    assert rows[0] == Row("positions", "re-made", "4 x 4 tokens, interpolation 1 -> 8 x 8 tokens, interpolation 1")
    larger = DiT({**dit.tensors, "pos_embed": foreign.positions(DIM, 8, 1.0)})
    x, at_500, size = torch.randn(2, 4, 16, 16), torch.full((2,), 500), torch.tensor([[300.0, 200.0]] * 2)
    output = model(x, at_500, words(2, size=size, aspect_ratio=size[:, :1] / size[:, 1:]))
    assert difference(output, larger(x, at_500)) <= 1e-5


def test_the_first_block_s_own_map_has_a_table_of_zeros_and_the_mean_is_nearer_to_all(dit_file, small):
    tables = {}
    for shared in SHARED:
        model = small(depth=DEPTH)
        hand_off(read(dit_file, num_heads=HEADS), model, shared_mlp=shared)
        tables[shared] = [float(block.scale_shift_table.detach().square().sum()) for block in model.blocks]
    assert tables["first"][0] < 1e-10 < tables["first"][1]
    assert sum(tables["mean"]) < sum(tables["first"])


def test_each_tensor_has_one_row_and_the_classes_are_said_to_be_dropped(dit_file, small):
    weights, model = read(dit_file, num_heads=HEADS), small(depth=DEPTH)
    rows = hand_off(weights, model, shared_mlp="mean")
    assert sorted(row.tensor for row in rows) == sorted(weights.tensors.keys() | model.state_dict().keys())
    named = {row.tensor: row for row in rows}
    assert named["y_embedder.embedding_table.weight"].action == "left behind"
    assert named["blocks.2.adaLN_modulation.1.weight"].action == "converted"
    assert named["t_block.1.weight"].detail == "mean of all blocks'"
    assert named["blocks.1.cross_attn.proj.weight"] == Row(
        "blocks.1.cross_attn.proj.weight", "fresh", "zero: adds nothing at first"
    )


def test_our_own_per_block_stage_1_meets_its_stage_2_at_t_500_too(small, trained):
    stage_1, stage_2 = trained(**STAGE_1, adaln="per_block"), small(depth=DEPTH)
    hand_off((stage_1.state_dict(), stage_1.config), stage_2, shared_mlp="first")
    x, at_500 = torch.randn(2, 4, 8, 8), torch.full((2,), 500)
    assert difference(stage_2(x, at_500, words(2)), stage_1(x, at_500, Conditioning())) <= 1e-5


@pytest.mark.parametrize(
    ("asked", "shared", "sentence"),
    [
        ({"depth": 2}, "first", "depth is 3 in the weights to start from and 2"),
        ({"depth": DEPTH, "dim": 96}, "first", "dim is 48 in the weights to start from and 96"),
        ({"depth": DEPTH}, None, "adaln is per_block in the weights to start from and single"),
        ({**STAGE_1, "num_classes": 7}, "first", r"\(6, 48\) .*: 5 classes there, 7 here. Set data.num_classes=5"),
    ],
)
def test_what_does_not_fit_is_named_and_the_model_untouched(dit_file, small, asked, shared, sentence):
    model = small(**asked)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=sentence):
        hand_off(read(dit_file, num_heads=HEADS), model, shared_mlp=shared)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
