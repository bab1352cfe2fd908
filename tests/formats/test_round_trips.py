"""Official -> ours -> diffusers -> ours -> official, to the bit, and what a format cannot hold by name."""

import json
from pathlib import Path
from typing import Any

import foreign
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pixart.formats import Weights, load, read, write
from pixart.formats.reading import with_null_caption
from pixart.formats.table import Row
from pixart.models.dit import PixArt

SMALL: dict[str, Any] = {"dim": 48, "depth": 2, "side": 4, "text_dim": 20, "rows": 7}


def official(path: Path, *, scale: float = 1.0, seed: int = 0, **changes: Any) -> dict[str, torch.Tensor]:
    content = foreign.fill(foreign.pixart_shapes(**{**SMALL, **changes}), scale=scale, seed=seed)
    torch.save({"state_dict": content}, path)
    return content


def around(folder: Path, heads: int) -> tuple[dict[str, torch.Tensor], list[Weights]]:
    """Write ``start.pth`` of the folder in every format in turn; the last file's tensors and all that was read."""
    first = read(folder / "start.pth", num_heads=heads)
    write(first, folder / "a.safetensors", to="snapshot")
    ours = read(folder / "a.safetensors")
    write(ours, folder / "diffusers", to="diffusers")
    theirs = read(folder / "diffusers")
    write(theirs, folder / "b.safetensors", to="snapshot")
    again = with_null_caption(read(folder / "b.safetensors"), folder / "a.safetensors")
    write(again, folder / "end.pth", to="pixart")
    return torch.load(folder / "end.pth", weights_only=True)["state_dict"], [first, ours, theirs, again]


@pytest.mark.parametrize("sizes", [False, True])
def test_the_whole_way_round_keeps_every_bit(tmp_path, sizes):
    start = official(tmp_path / "start.pth", sizes=sizes, scale=2.0)
    end, passed = around(tmp_path, heads=4)
    assert end.keys() == start.keys()
    assert [name for name in start if not torch.equal(start[name], end[name])] == []
    assert all(weights.model_config == passed[0].model_config for weights in passed)
    assert [weights.null_kind for weights in passed] == ["y_embedding", "y_embedding", None, "y_embedding"]


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    heads=st.integers(1, 3), head_dim=st.sampled_from([12, 24]), depth=st.integers(1, 3), side=st.integers(2, 6),
    text_dim=st.integers(1, 9), rows=st.integers(1, 5), patch=st.sampled_from([1, 2, 4]), channels=st.integers(1, 4),
    sizes=st.booleans(), scale=st.sampled_from([0.5, 1.0, 1.5, 2.0, 4.0]), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_architecture_that_both_can_hold_goes_round_to_the_bit(
    tmp_path_factory, heads, head_dim, scale, seed, **shape
):
    folder = tmp_path_factory.mktemp("round")
    start = official(folder / "start.pth", dim=heads * head_dim, scale=scale, seed=seed, **shape)
    end, passed = around(folder, heads)
    assert [name for name in start.keys() | end.keys() if not torch.equal(start[name], end[name])] in (
        [],
        ["pos_embed"],
    )
    torch.testing.assert_close(end["pos_embed"], start["pos_embed"], rtol=0, atol=1e-6)
    assert passed[2].model_config == {**passed[0].model_config, "num_heads": heads}


def test_diffusers_loads_the_folder_strictly_and_computes_the_same(tmp_path):
    from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel

    official(tmp_path / "start.pth", scale=2.0)
    write(read(tmp_path / "start.pth", num_heads=4), tmp_path / "out", to="diffusers")
    theirs, report = PixArtTransformer2DModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values())
    ours = load(tmp_path / "out")
    from pixart.batch import Conditioning

    x_t, t, tokens = torch.randn(2, 4, 6, 10), torch.tensor([9, 800]), torch.randn(2, 5, 20)
    mask = torch.arange(5) < torch.tensor([[5], [2]])
    expected = theirs(x_t, tokens, t, encoder_attention_mask=mask.long(), return_dict=False,
                      added_cond_kwargs={"resolution": None, "aspect_ratio": None})[0]  # fmt: skip
    output = ours(x_t, t, Conditioning(tokens=tokens, mask=mask))
    assert (output - expected).abs().max() <= 2e-5 * expected.abs().max()


def test_shards_with_an_index_are_read_as_one_and_a_missing_shard_is_named(tmp_path):
    from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel

    official(tmp_path / "start.pth")
    weights = read(tmp_path / "start.pth", num_heads=4)
    write(weights, tmp_path / "whole", to="diffusers")
    PixArtTransformer2DModel.from_pretrained(tmp_path / "whole").save_pretrained(
        tmp_path / "cut", max_shard_size="50KB"
    )
    shards = sorted((tmp_path / "cut").glob("*-of-*.safetensors"))
    assert len(shards) > 2
    again = read(tmp_path / "cut")
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in weights.tensors.items())
    shards[1].unlink()
    with pytest.raises(ValueError, match=shards[1].name):
        read(tmp_path / "cut")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    official(tmp_path / "start.pth", sizes=True)
    write(read(tmp_path / "start.pth", num_heads=4), tmp_path / "out", to="diffusers")
    return tmp_path / "out"


def rewrite(folder: Path, *, config: dict[str, Any] | None = None, **tensors: torch.Tensor | None) -> None:
    """Change keys of config.json, replace tensors, or drop them with None."""
    described = json.loads((folder / "config.json").read_text()) | (config or {})
    (folder / "config.json").write_text(json.dumps(described))
    file = folder / "diffusion_pytorch_model.safetensors"
    held = {name: tensor for name, tensor in (load_file(file) | tensors).items() if tensor is not None}
    save_file(held, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"adaln_single.linear.bias": None}, "tensor 'adaln_single.linear.bias' is missing"),
        ({"extra": torch.zeros(1)}, "tensor 'extra' is unknown"),
        ({"transformer_blocks.1.attn1.to_q.bias": torch.zeros(3)}, r"'transformer_blocks.1.attn1.to_q.bias' is \(3,\)"),
    ],
)
def test_a_missing_unknown_or_misshapen_tensor_of_a_folder_is_named(folder, tensors, sentence):
    rewrite(folder, **tensors)
    with pytest.raises(ValueError, match=sentence):
        read(folder)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "describes a UNet2DConditionModel"),
        ({"norm_type": "ada_norm_zero"}, "norm_type is ada_norm_zero"),
        ({"num_layers": 3}, r"'transformer_blocks\.2.* is missing"),
        ({"num_attention_heads": None}, r"lacks a usable num_attention_heads \(it is None\)"),
        ({"num_attention_heads": 0}, r"lacks a usable num_attention_heads \(it is 0\)"),
        ({"sample_size": 10**9}, "lacks a usable sample_size"),
        ({"interpolation_scale": -1}, r"lacks a usable interpolation_scale \(it is -1\)"),
        ({"caption_channels": 21}, "'caption_projection.linear_1.weight' is"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_by_key_or_tensor(folder, config, sentence):
    rewrite(folder, config=config)
    with pytest.raises(ValueError, match=sentence):
        read(folder)


def test_what_was_given_must_agree_with_a_config(folder):
    assert read(folder, num_heads=4, input_size=8).model_config["num_heads"] == 4
    with pytest.raises(ValueError, match="says num_heads is 4, and num_heads=6 was given"):
        read(folder, num_heads=6)


def test_diffusers_own_rules_fill_what_old_configs_leave_out(folder):
    old = {
        "_class_name": "Transformer2DModel",
        "sample_size": 128,
        "interpolation_scale": None,
        "double_self_attention": False,
    }
    rewrite(folder, config=old | {"use_additional_conditions": None}, **{"pos_embed.pos_embed": torch.zeros(1, 4, 48)})
    weights = read(folder)
    assert (weights.model_config["interpolation_scale"], weights.model_config["size_conditioning"]) == (2.0, True)
    assert Row("pos_embed.pos_embed", "left behind", "positions are made when needed") in weights.rows


def snapshot(path: Path, model: PixArt, *, null: torch.Tensor | None = None, **objective: Any) -> Weights:
    from pixart.formats.snapshot import write_snapshot

    usual = {"kind": "gaussian", "num_timesteps": 1000, "schedule": "linear", "prediction": "eps"}
    write_snapshot(
        path, model.state_dict(), model_config=model.config, stamps={}, step=1, samples_seen=1, null_caption=null,
        run_config={"objective": usual | objective, "text_encoder": {"max_tokens": 9}},
    )  # fmt: skip
    return read(path)


@pytest.mark.parametrize(
    ("model", "objective", "to", "sentence"),
    [
        ({"text_dim": None, "num_classes": 5}, {}, "pixart", "cannot hold a model of labels"),
        ({"text_dim": None, "num_classes": 5}, {}, "diffusers", "cannot hold a model of labels"),
        ({"adaln": "per_block"}, {}, "diffusers-pipeline", "cannot hold adaln=per_block"),
        ({"out_channels": 4}, {}, "pixart", "cannot hold a model without learned variance"),
        ({"out_channels": 4}, {"kind": "flow"}, "diffusers", "cannot hold a flow-matching model"),
        ({}, {"prediction": "velocity"}, "pixart", "cannot hold the objective velocity"),
        ({}, {"schedule": "cosine"}, "diffusers", "cannot hold the objective eps, 1000 cosine steps"),
        ({"mlp_ratio": 2.0}, {}, "diffusers", "no PixArt with mlp_ratio=2"),
        ({"dim": 32, "size_conditioning": True}, {}, "diffusers", "no PixArt with size conditioning at width 32"),
        ({}, {}, "pixart", "needs tensor 'y_embedder.y_embedding'"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_by_name_and_nothing_is_left(
    tmp_path, trained, model, objective, to, sentence
):
    weights = snapshot(tmp_path / "a.safetensors", trained(**model), **objective)
    with pytest.raises(ValueError, match=sentence):
        write(weights, tmp_path / "out", to=to)
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_1_row_of_the_empty_caption_is_repeated_which_attends_as_one(tmp_path, trained):
    from pixart.batch import Conditioning

    row = torch.randn(1, 20)
    weights = snapshot(tmp_path / "a.safetensors", trained(), null=row)
    rows = write(weights, tmp_path / "a.pth", to="pixart")
    detail = "the empty caption's one row, 9 times: attends as one"
    assert Row("y_embedder.y_embedding", "written", detail) in rows
    null = read(tmp_path / "a.pth", num_heads=4).null_caption
    assert torch.equal(null, row.expand(9, -1))
    model, x_t, t = load(tmp_path / "a.safetensors"), torch.randn(2, 4, 8, 8), torch.tensor([3, 700])
    one = Conditioning(tokens=row.expand(2, 1, -1), mask=torch.ones(2, 1, dtype=torch.bool))
    many = Conditioning(tokens=null.expand(2, -1, -1), mask=torch.arange(9) < torch.tensor([[9], [4]]))
    torch.testing.assert_close(model(x_t, t, many), model(x_t, t, one), rtol=0, atol=1e-5)


def test_2_rows_of_the_empty_caption_have_no_official_form(tmp_path, trained):
    with pytest.raises(ValueError, match="cannot hold a null caption of 2 rows"):
        write(snapshot(tmp_path / "a.safetensors", trained(), null=torch.randn(2, 20)), tmp_path / "a.pth", to="pixart")


def test_a_text_encoder_gives_the_null_caption_that_diffusers_weights_lack(tmp_path, trained):
    weights = snapshot(tmp_path / "a.safetensors", trained(text_dim=64))
    write(weights, tmp_path / "a.pth", to="pixart", text_encoder="shapes-t5")
    null = read(tmp_path / "a.pth", num_heads=4).null_caption
    assert null.shape == (9, 64)
    assert torch.equal(null[0], null[8])
    with pytest.raises(ValueError, match="has width 64 and the model takes 20"):
        write(
            snapshot(tmp_path / "b.safetensors", trained()), tmp_path / "b.pth", to="pixart", text_encoder="shapes-t5"
        )
