import copy
import json

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from pixart.batch import Conditioning, concatenate, places_of
from pixart.models import dit
from pixart.models.dit import PixArt

XL = {
    "input_size": 32,
    "in_channels": 4,
    "out_channels": 8,
    "mlp_ratio": 4.0,
    "text_dim": 4096,
    "num_classes": None,
    "size_conditioning": False,
    "adaln": "single",
    "interpolation_scale": 1.0,
    "attention": "sdpa",
    "fp32_attention": False,
    "checkpointing": "none",
    **{"depth": 28, "dim": 1152, "num_heads": 16, "patch_size": 2},
}


def on_meta(**changes) -> PixArt:
    with torch.device("meta"):
        return PixArt(**{**XL, **changes})


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 610_856_096),
        ({"size_conditioning": True}, 611_349_152),
        ({"text_dim": None, "num_classes": 1000}, 457_196_576),
        ({"text_dim": None, "num_classes": 1000, "adaln": "per_block"}, 674_834_720),
    ],
)
def test_xl_2_has_exactly_the_published_number_of_parameters(changes, count):
    assert sum(parameter.numel() for parameter in on_meta(**changes).parameters()) == count


def linear(stem: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{stem}.weight": (rows, columns), f"{stem}.bias": (rows,)}


def released_shapes(depth: int) -> dict[str, tuple[int, ...]]:
    """Tensors of PixArt-XL-2-1024-MS.pth but for its two buffers, for a given number of blocks."""
    shapes: dict[str, tuple[int, ...]] = {
        "x_embedder.proj.weight": (1152, 4, 2, 2),
        "x_embedder.proj.bias": (1152,),
        **linear("t_embedder.mlp.0", 1152, 256),
        **linear("t_embedder.mlp.2", 1152, 1152),
        **linear("t_block.1", 6912, 1152),
        **linear("y_embedder.y_proj.fc1", 1152, 4096),
        **linear("y_embedder.y_proj.fc2", 1152, 1152),
        **linear("final_layer.linear", 32, 1152),
        "final_layer.scale_shift_table": (2, 1152),
    }
    for name in ("csize_embedder", "ar_embedder"):
        shapes |= linear(f"{name}.mlp.0", 384, 256) | linear(f"{name}.mlp.2", 384, 384)
    for i in range(depth):
        block = f"blocks.{i}"
        shapes |= {f"{block}.scale_shift_table": (6, 1152)}
        shapes |= linear(f"{block}.attn.qkv", 3456, 1152) | linear(f"{block}.attn.proj", 1152, 1152)
        shapes |= linear(f"{block}.cross_attn.q_linear", 1152, 1152)
        shapes |= linear(f"{block}.cross_attn.kv_linear", 2304, 1152)
        shapes |= linear(f"{block}.cross_attn.proj", 1152, 1152)
        shapes |= linear(f"{block}.mlp.fc1", 4608, 1152) | linear(f"{block}.mlp.fc2", 1152, 4608)
    return shapes


def test_state_dict_of_xl_2_has_the_443_names_and_shapes_of_the_released_weights():
    shapes = {name: tuple(tensor.shape) for name, tensor in on_meta(size_conditioning=True).state_dict().items()}
    assert shapes == released_shapes(28)
    assert len(shapes) == 443


def test_class_conditional_forms_hold_labels_and_no_cross_attention():
    single = on_meta(text_dim=None, num_classes=1000, depth=1).state_dict()
    per_block = on_meta(text_dim=None, num_classes=1000, depth=1, adaln="per_block").state_dict()
    assert tuple(single["y_embedder.embedding_table.weight"].shape) == (1001, 1152)
    assert not [name for name in single if "cross_attn" in name or "y_proj" in name or "adaLN" in name]
    assert tuple(per_block["blocks.0.adaLN_modulation.1.weight"].shape) == (6912, 1152)
    assert tuple(per_block["final_layer.adaLN_modulation.1.weight"].shape) == (2304, 1152)
    assert not [name for name in per_block if "scale_shift_table" in name or "t_block" in name]


def test_forward_and_backward_of_xl_2_run_on_the_meta_device():
    model = on_meta()
    cond = Conditioning(
        tokens=torch.empty(2, 120, 4096, device="meta"), mask=torch.ones(2, 120, dtype=torch.bool, device="meta")
    )
    output = model(torch.empty(2, 4, 32, 32, device="meta"), torch.empty(2, device="meta"), cond)
    assert output.shape == (2, 8, 32, 32)
    output.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_two_blocks_at_xl_2_width_learn_from_one_backward():
    torch.manual_seed(0)
    model = PixArt(**{**XL, "depth": 2, "text_dim": 64})
    cond = Conditioning(tokens=torch.randn(1, 3, 64), mask=torch.ones(1, 3, dtype=torch.bool))
    output = model(torch.randn(1, 4, 8, 8), torch.tensor([10]), cond)
    (output - 1).square().mean().backward()
    gradient = model.final_layer.linear.weight.grad
    assert gradient is not None
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("changes", [{}, {"adaln": "per_block"}, {"text_dim": None, "num_classes": 3}])
def test_output_is_exactly_0_as_initialised(small, captioned, x_t, t, changes):
    cond = Conditioning(label=torch.tensor([0, 2])) if "num_classes" in changes else captioned
    assert small(**changes)(x_t, t, cond).abs().max() == 0


def test_a_label_model_refuses_captions(small, captioned, x_t, t):
    with pytest.raises(ValueError, match="conditioned on labels: give cond"):
        small(text_dim=None, num_classes=3)(x_t, t, captioned)


def test_contents_of_padding_change_no_bit_of_the_output_even_nan(small, randomise, captioned, x_t, t):
    model = randomise(small())
    tokens = captioned.tokens.clone()
    tokens[1, 3:] = torch.nan
    assert torch.equal(model(x_t, t, captioned), model(x_t, t, captioned._replace(tokens=tokens)))


def test_longer_padding_changes_the_output_by_at_most_1e_6(small, randomise, captioned, x_t, t):
    model = randomise(small())
    longer = captioned._replace(tokens=F.pad(captioned.tokens, (0, 0, 0, 5)), mask=F.pad(captioned.mask, (0, 5)))
    torch.testing.assert_close(model(x_t, t, longer), model(x_t, t, captioned), rtol=1e-5, atol=1e-6)


def test_no_mask_means_that_every_token_is_real(small, randomise, captioned, x_t, t):
    model = randomise(small())
    every = captioned._replace(mask=torch.ones(2, 6, dtype=torch.bool))
    torch.testing.assert_close(model(x_t, t, every), model(x_t, t, captioned._replace(mask=None)), rtol=1e-5, atol=1e-6)


def test_permuting_the_text_tokens_changes_nothing_beyond_1e_6(small, randomise, captioned, x_t, t):
    model, order = randomise(small()), torch.tensor([5, 2, 0, 4, 1, 3])
    shuffled = captioned._replace(tokens=captioned.tokens[:, order], mask=captioned.mask[:, order])
    torch.testing.assert_close(model(x_t, t, shuffled), model(x_t, t, captioned), rtol=1e-5, atol=1e-6)


def test_a_batch_of_two_equals_two_batches_of_one(small, randomise, captioned, x_t, t):
    model = randomise(small(size_conditioning=True))
    halves = [Conditioning(*(None if x is None else x[i : i + 1] for x in captioned)) for i in range(2)]
    assert torch.equal(concatenate(*halves).tokens, captioned.tokens)
    single = torch.cat([model(x_t[i : i + 1], t[i : i + 1], halves[i]) for i in range(2)])
    torch.testing.assert_close(model(x_t, t, captioned), single, rtol=1e-4, atol=1e-5)


def test_text_time_size_and_aspect_ratio_each_change_the_output(small, randomise, captioned, x_t, t):
    model = randomise(small(size_conditioning=True))
    output = model(x_t, t, captioned)
    for cond in (
        captioned._replace(tokens=captioned.tokens + 1),
        captioned._replace(size=captioned.size + 64),
        captioned._replace(aspect_ratio=captioned.aspect_ratio + 0.3),
    ):
        assert (model(x_t, t, cond) - output).abs().max() > 1e-4
    assert (model(x_t, t + 50, captioned) - output).abs().max() > 1e-4


def test_an_image_of_padding_alone_is_finite_and_so_are_its_gradients(small, randomise, captioned, x_t, t):
    model = randomise(small())
    mask = captioned.mask.clone()
    mask[1] = False
    output = model(x_t, t, captioned._replace(mask=mask))
    output.square().sum().backward()
    assert output.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_no_label_adds_nothing_so_a_table_row_of_zeros_gives_the_same(small, randomise, x_t, t):
    model = randomise(small(text_dim=None, num_classes=5))
    free = model(x_t, t, Conditioning())
    assert (model(x_t, t, Conditioning(label=torch.tensor([0, 5]))) - free).abs().max() > 1e-3
    with torch.no_grad():
        model.y_embedder.embedding_table.weight[5] = 0
    assert torch.equal(model(x_t, t, Conditioning(label=torch.tensor([5, 5]))), free)


def described_dit(weights: dict[str, Tensor], heads: int, x: Tensor, c: Tensor, patch: int, out: int) -> Tensor:
    """DiT with adaLN-zero after its paper (section 3.2, figure 3) in plain functions; ``c`` (N, D), ``x`` tokens."""

    def affine(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def normalised(x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()

    def attention(name: str, x: Tensor) -> Tensor:
        n, tokens, dim = x.shape
        q, k, v = (y.reshape(n, tokens, heads, -1) for y in affine(f"{name}.qkv", x).split(dim, dim=-1))
        scores = torch.einsum("nihd,njhd->nhij", q, k) * (dim // heads) ** -0.5
        return affine(f"{name}.proj", torch.einsum("nhij,njhd->nihd", scores.softmax(-1), v).reshape(n, tokens, dim))

    gate_input = c * c.sigmoid()
    blocks = len([name for name in weights if name.endswith("attn.qkv.weight")])
    for i in range(blocks):
        parts = affine(f"blocks.{i}.adaLN_modulation.1", gate_input)[:, None].split(c.shape[1], dim=-1)
        x = x + parts[2] * attention(f"blocks.{i}.attn", normalised(x) * (1 + parts[1]) + parts[0])
        hidden = affine(f"blocks.{i}.mlp.fc1", normalised(x) * (1 + parts[4]) + parts[3])
        x = x + parts[5] * affine(f"blocks.{i}.mlp.fc2", F.gelu(hidden, approximate="tanh"))
    shift, scale = affine("final_layer.adaLN_modulation.1", gate_input)[:, None].split(c.shape[1], dim=-1)
    x = affine("final_layer.linear", normalised(x) * (1 + scale) + shift)
    n, side = x.shape[0], int(x.shape[1] ** 0.5)
    return torch.einsum("nhwpqc->nchpwq", x.view(n, side, side, patch, patch, out)).reshape(
        n, out, side * patch, side * patch
    )


def test_per_block_form_equals_dit_as_described_to_1e_5(small, randomise, x_t, t):
    model = randomise(small(text_dim=None, num_classes=5, adaln="per_block"))
    label = torch.tensor([2, 5])
    weights = model.state_dict()
    tokens = F.conv2d(x_t, weights["x_embedder.proj.weight"], weights["x_embedder.proj.bias"], stride=2)
    tokens = tokens.flatten(2).transpose(1, 2) + model.positions(4, 4, x_t.device)
    c = model.t_embedder(t) + weights["y_embedder.embedding_table.weight"][label]
    expected = described_dit(weights, 4, tokens, c, patch=2, out=8)
    torch.testing.assert_close(model(x_t, t, Conditioning(label=label)), expected, rtol=1e-5, atol=1e-5)


def test_unpatchify_lays_a_token_out_as_row_column_channel(small):
    model = small()
    tokens = torch.arange(2 * 3 * 2 * 2 * 8).float().view(1, 6, 32)  # 2 x 3 tokens of 2 x 2 patches of 8 channels
    image = model.unpatchify(tokens, 2, 3)
    assert image.shape == (1, 8, 4, 6)
    token, row, column, channel = 4, 1, 0, 5  # the token in the second row, second column
    assert image[0, channel, 2 * 1 + row, 2 * 1 + column] == tokens[0, token, (row * 2 + column) * 8 + channel]


@pytest.mark.parametrize("checkpointing", ["none", "selective"])
@pytest.mark.parametrize("known", [False, True])
def test_nothing_is_read_back_from_the_device_in_a_step(small, captioned, x_t, t, monkeypatch, checkpointing, known):
    model = small(size_conditioning=True, checkpointing=checkpointing).train()
    monkeypatch.setattr(dit, "located", lambda *given: given)  # as on every device but the CPU, where reading is free
    captioned = captioned._replace(places=places_of(captioned.mask) if known else None)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:  # a fake tensor has no value to read
        cond = Conditioning(*(None if x is None else fake.from_tensor(x) for x in captioned))
        model(fake.from_tensor(x_t), fake.from_tensor(t), cond).sum().backward()
        with pytest.raises(RuntimeError):
            fake.from_tensor(t).tolist()
    assert not model.positions._axes  # and nothing fake stays behind


def test_a_deep_copy_computes_the_same_and_shares_nothing(small, randomise, captioned, x_t, t):
    model = randomise(small())
    before = model(x_t, t, captioned)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.final_layer.linear.weight.zero_()
    assert torch.equal(model(x_t, t, captioned), before)
    assert other.state_dict().keys() == model.state_dict().keys()


def test_sampling_before_training_does_not_spoil_the_backward(small, randomise, captioned, x_t, t):
    model = randomise(small())
    with torch.inference_mode():
        model(x_t, t, captioned)
    assert not any(table.is_inference() for table in model.positions._axes.values())
    model(x_t.requires_grad_(), t, captioned).sum().backward()
    assert x_t.grad.isfinite().all()


def test_whole_model_traces_as_one_graph(small, randomise, captioned, x_t, t):
    model = randomise(small(size_conditioning=True))
    traced = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(traced(x_t, t, captioned), model(x_t, t, captioned), rtol=1e-5, atol=1e-6)


def test_config_is_json_and_rebuilds_the_model(small):
    config = json.loads(json.dumps(small(size_conditioning=True).config))
    assert config.keys() == XL.keys()
    assert PixArt(**config).config == config


@pytest.mark.parametrize(
    ("changes", "missing", "words"),
    [
        ({}, {"tokens": None}, "cond.tokens"),
        ({"size_conditioning": True}, {"size": None}, "cond.size"),
        ({"size_conditioning": True}, {"aspect_ratio": None}, "cond.aspect_ratio"),
    ],
)
def test_a_missing_conditioning_is_named_in_one_sentence(small, captioned, x_t, t, changes, missing, words):
    with pytest.raises(ValueError, match=words):
        small(**changes)(x_t, t, captioned._replace(**missing))


def test_latents_of_an_odd_size_are_refused_with_both_numbers(small, captioned, t):
    with pytest.raises(ValueError, match="8 x 7 do not divide into patches of 2"):
        small()(torch.randn(2, 4, 8, 7), t, captioned)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_heads": 5}, "num_heads=5"),
        ({"dim": 50, "num_heads": 5}, "dim=50"),
        ({"input_size": 9}, "input_size=9"),
        ({"attention": "fast"}, "sdpa, xformers"),
        ({"adaln": "both"}, "single, per_block"),
        ({"checkpointing": True}, "checkpointing=True must be one of none, blocks, selective"),
    ],
)
def test_numbers_of_which_no_model_can_be_built_are_named(small, changes, words):
    with pytest.raises(ValueError, match=words):
        small(**changes)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch has no rule for its attention
def test_gradients_of_each_image_by_itself_are_those_of_a_batch_of_one(small, randomise, captioned, x_t, t):
    model = randomise(small(size_conditioning=True))
    weights = dict(model.named_parameters())

    def loss(given: dict[str, Tensor], *inputs: Tensor) -> Tensor:
        x, time, *told = (one[None] for one in inputs)
        cond = Conditioning(**dict(zip(("tokens", "mask", "size", "aspect_ratio"), told, strict=True)))
        return torch.func.functional_call(model, given, (x, time, cond)).square().mean()

    inputs = (x_t, t, captioned.tokens, captioned.mask, captioned.size, captioned.aspect_ratio)
    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, *[0] * 6))(weights, *inputs)
    for row in range(len(x_t)):
        alone = torch.autograd.grad(loss(weights, *(one[row] for one in inputs)), list(weights.values()))
        for name, gradient in zip(weights, alone, strict=True):
            torch.testing.assert_close(found[name][row], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_captions_without_any_token_are_taken(small, captioned, x_t, t):
    none = captioned._replace(tokens=captioned.tokens[:, :0], mask=captioned.mask[:, :0])
    unseen = captioned._replace(mask=torch.zeros_like(captioned.mask))
    model = small()
    torch.testing.assert_close(model(x_t, t, none), model(x_t, t, unseen))
