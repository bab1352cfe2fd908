"""Our transformer equals diffusers' on the same weights, forward and backward."""

import pytest
import torch
from torch import Tensor

from pixart.batch import Conditioning
from pixart.models import linear

TOLERANCE = 2e-5  # of the largest value


def diffusers_name(name: str) -> tuple[str, ...]:
    """The diffusers names of one of our tensors: three for fused q, k, v, two for fused k, v."""
    whole = {
        "x_embedder.proj": "pos_embed.proj",
        "y_embedder.y_proj.fc1": "caption_projection.linear_1",
        "y_embedder.y_proj.fc2": "caption_projection.linear_2",
        "t_embedder.mlp.0": "adaln_single.emb.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "adaln_single.emb.timestep_embedder.linear_2",
        "csize_embedder.mlp.0": "adaln_single.emb.resolution_embedder.linear_1",
        "csize_embedder.mlp.2": "adaln_single.emb.resolution_embedder.linear_2",
        "ar_embedder.mlp.0": "adaln_single.emb.aspect_ratio_embedder.linear_1",
        "ar_embedder.mlp.2": "adaln_single.emb.aspect_ratio_embedder.linear_2",
        "t_block.1": "adaln_single.linear",
        "final_layer.linear": "proj_out",
    }
    within = {
        "attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
        "attn.proj": ("attn1.to_out.0",),
        "cross_attn.q_linear": ("attn2.to_q",),
        "cross_attn.kv_linear": ("attn2.to_k", "attn2.to_v"),
        "cross_attn.proj": ("attn2.to_out.0",),
        "mlp.fc1": ("ff.net.0.proj",),
        "mlp.fc2": ("ff.net.2",),
    }
    if name == "final_layer.scale_shift_table":
        return ("scale_shift_table",)
    if name.endswith("scale_shift_table"):
        return (name.replace("blocks.", "transformer_blocks.", 1),)
    stem, kind = name.rsplit(".", 1)
    if stem in whole:
        return (f"{whole[stem]}.{kind}",)
    _, block, inner = stem.split(".", 2)
    return tuple(f"transformer_blocks.{block}.{target}.{kind}" for target in within[inner])


def twin(model):  # type: ignore[no-untyped-def]
    """A diffusers model of the same shape and weights."""
    from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel

    config = model.config
    other = PixArtTransformer2DModel(
        num_attention_heads=config["num_heads"],
        attention_head_dim=config["dim"] // config["num_heads"],
        in_channels=config["in_channels"],
        out_channels=config["out_channels"],
        num_layers=config["depth"],
        cross_attention_dim=config["dim"],
        sample_size=config["input_size"],
        patch_size=config["patch_size"],
        interpolation_scale=config["interpolation_scale"],
        use_additional_conditions=config["size_conditioning"],
        caption_channels=config["text_dim"],
    )
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        names = diffusers_name(name)
        tensors.update(zip(names, tensor.chunk(len(names)), strict=True))
    other.load_state_dict(tensors, strict=True)
    return other.eval()


def their_output(other, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:  # type: ignore[no-untyped-def]
    added = {"resolution": cond.size, "aspect_ratio": cond.aspect_ratio}
    assert cond.mask is not None
    return other(
        x_t,
        encoder_hidden_states=cond.tokens,
        encoder_attention_mask=cond.mask.long(),
        timestep=t,
        added_cond_kwargs=added,
        return_dict=False,
    )[0]


def agree(  # type: ignore[no-untyped-def]
    model, x_t: Tensor, t: Tensor, cond: Conditioning, tolerance: float = TOLERANCE
) -> None:
    """Output and input gradient equal those of the twin to the tolerance."""
    other = twin(model)
    ours, theirs = x_t.clone().requires_grad_(), x_t.clone().requires_grad_()
    output, expected = model(ours, t, cond), their_output(other, theirs, t, cond)
    assert (output - expected).abs().max() <= tolerance * expected.abs().max()
    weights = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad((output * weights).sum(), ours)
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), theirs)
    assert (gradient - expected_gradient).abs().max() <= tolerance * expected_gradient.abs().max()


@pytest.mark.parametrize("interpolation_scale", [1, 2])
@pytest.mark.parametrize("size_conditioning", [False, True])
@pytest.mark.parametrize("shape", [(8, 8), (6, 14)])
def test_output_and_input_gradient_equal_diffusers_to_2e_5(
    small, randomise, captioned, shape, size_conditioning, interpolation_scale
):
    model = randomise(small(size_conditioning=size_conditioning, interpolation_scale=interpolation_scale))
    agree(model, torch.randn(2, 4, *shape), torch.tensor([999, 250]), captioned)


WIDE = {"dim": 1152, "num_heads": 16, "text_dim": 4096, "input_size": 128}


@pytest.mark.parametrize(
    ("size_conditioning", "interpolation_scale", "shape"),
    [(False, 1, (8, 8)), (False, 2, (10, 6)), (True, 1, (6, 10)), (True, 2, (6, 10))],
)
def test_2_blocks_of_xl_2_s_width_equal_diffusers_to_2e_5(
    small, randomise, captioned, size_conditioning, interpolation_scale, shape
):
    model = small(**WIDE, size_conditioning=size_conditioning, interpolation_scale=interpolation_scale)
    cond = captioned._replace(tokens=torch.randn(2, 6, 4096))
    agree(randomise(model, std=0.03), torch.randn(2, 4, *shape), torch.tensor([999, 250]), cond)


@pytest.mark.slow
@pytest.mark.parametrize("products", ["torch", "onednn"])
def test_all_28_blocks_of_xl_2_equal_diffusers_to_2e_5(small, randomise, captioned, products, monkeypatch):
    """By the same products; the rounding of others, twice as large, adds up to 4e-5 in as many blocks."""
    if products == "torch":
        monkeypatch.setattr(linear, "ONEDNN", None)
    model = randomise(small(**WIDE, depth=28, size_conditioning=True, interpolation_scale=2), std=0.03)
    assert sum(parameter.numel() for parameter in model.parameters()) == 611_349_152
    cond = captioned._replace(tokens=torch.randn(2, 6, 4096))
    tolerance = TOLERANCE if products == "torch" else 2 * TOLERANCE
    agree(model, torch.randn(2, 4, 6, 10), torch.tensor([999, 250]), cond, tolerance)


def test_wider_model_at_a_fractional_timestep_equals_diffusers_to_2e_5(small, randomise, captioned, x_t):
    model = randomise(small(dim=96, num_heads=3, text_dim=20, size_conditioning=True), std=0.05)
    t = torch.tensor([949.05, 49.95])
    output, expected = model(x_t, t, captioned), their_output(twin(model), x_t, t, captioned)
    assert expected.abs().max() > 0
    assert (output - expected).abs().max() <= TOLERANCE * expected.abs().max()
