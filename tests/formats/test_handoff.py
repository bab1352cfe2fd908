import pytest
import torch

from pixart.batch import Conditioning
from pixart.formats.handoff import hand_off
from pixart.formats.snapshot import read_snapshot, write_snapshot
from pixart.formats.table import Row, format_table

STAGE_1 = {"text_dim": None, "num_classes": 5}
TIMES = list(range(1000))


def give(source, model):
    return hand_off((source.state_dict(), source.config), model)


def fate(rows, name):
    (row,) = [row for row in rows if row.tensor == name]
    return row


def conditioning(n, **others):
    mask = torch.arange(6) < (6 - torch.arange(n) % 6)[:, None]
    return Conditioning(tokens=torch.randn(n, 6, 20), mask=mask, **others)


def sizes(n):
    size = torch.full((n, 2), 512.0) + torch.arange(n)[:, None]
    return {"size": size, "aspect_ratio": size[:, :1] / size[:, 1:]}


@pytest.mark.parametrize("size_conditioning", [False, True])
@pytest.mark.parametrize("adaln", ["single", "per_block"])
def test_stage_2_starts_equal_to_unconditional_stage_1_at_all_1000_t_to_1e_6(small, trained, adaln, size_conditioning):
    stage_1 = trained(**STAGE_1, adaln=adaln)
    stage_2 = small(adaln=adaln, size_conditioning=size_conditioning)
    give(stage_1, stage_2)
    x_t, t = torch.randn(len(TIMES), 4, 8, 8), torch.tensor(TIMES)
    null = Conditioning(label=torch.full((len(TIMES),), 5))
    expected = stage_1(x_t, t, null)
    output = stage_2(x_t, t, conditioning(len(TIMES), **sizes(len(TIMES))))
    assert expected.abs().max() > 0.1
    assert (output - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_a_text_model_with_new_size_conditioning_starts_equal_to_the_one_without(small, trained):
    before, after = trained(), small(size_conditioning=True)
    rows = give(before, after)
    x_t, t, cond = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), conditioning(2, **sizes(2))
    torch.testing.assert_close(after(x_t, t, cond), before(x_t, t, cond), rtol=0, atol=1e-6)
    assert fate(rows, "csize_embedder.mlp.2.weight") == Row(
        "csize_embedder.mlp.2.weight", "fresh", "zero: adds nothing at first"
    )
    assert after.csize_embedder.mlp[0].weight.abs().max() > 0


def test_the_new_cross_attention_learns_since_only_its_output_is_zero(small, trained):
    stage_2 = small()
    give(trained(**STAGE_1), stage_2)
    stage_2(torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), conditioning(2)).square().sum().backward()
    attention = stage_2.blocks[0].cross_attn
    assert attention.proj.weight.abs().max() == 0
    assert attention.proj.weight.grad.abs().max() > 0
    assert attention.kv_linear.weight.abs().max() > 0


def test_text_weights_that_were_already_there_are_copied_to_the_bit(small, trained):
    before, after = trained(), small(input_size=16)
    rows = give(before, after)
    assert all(torch.equal(after.state_dict()[name], tensor) for name, tensor in before.state_dict().items())
    assert {row.action for row in rows} == {"copied", "re-made"}


def test_positions_have_a_row_when_the_size_or_its_scale_changes(small, trained):
    rows = give(trained(), small(input_size=16, interpolation_scale=2.0))
    assert rows[0] == Row("positions", "re-made", "4 x 4 tokens, interpolation 1 -> 8 x 8 tokens, interpolation 2")
    assert all(row.tensor != "positions" for row in give(trained(), small()))


def test_labels_stay_where_the_model_has_labels_and_the_time_embedding_is_then_unchanged(small, trained):
    before, after = trained(**STAGE_1), small(**STAGE_1)
    rows = give(before, after)
    assert {row.action for row in rows} == {"copied"}
    assert torch.equal(after.t_embedder.mlp[2].bias, before.t_embedder.mlp[2].bias)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({**STAGE_1}, {}),
        ({**STAGE_1}, {"size_conditioning": True, "input_size": 16}),
        ({}, {"size_conditioning": True}),
        ({"size_conditioning": True}, {}),
        ({**STAGE_1, "adaln": "per_block", "out_channels": 4}, {"adaln": "per_block"}),
    ],
)
def test_each_tensor_of_either_side_has_exactly_1_row(small, trained, old, new):
    source, model = trained(**old), small(**new)
    rows = give(source, model)
    named = [row.tensor for row in rows if row.action != "re-made"]
    assert sorted(named) == sorted(source.state_dict().keys() | model.state_dict().keys())


def test_the_null_label_is_folded_and_both_rows_say_so(small, trained):
    rows = give(trained(**STAGE_1), small())
    assert fate(rows, "y_embedder.embedding_table.weight").action == "folded"
    assert fate(rows, "t_embedder.mlp.2.bias") == Row("t_embedder.mlp.2.bias", "converted", "plus the null label's row")


def test_size_conditioning_that_is_no_longer_wanted_is_left_behind_by_name(small, trained):
    rows = give(trained(size_conditioning=True), small())
    assert [row.action for row in rows if row.tensor.startswith(("csize", "ar_"))] == ["left behind"] * 8


def test_a_learned_variance_is_added_with_zeros_and_the_prediction_stays(small, trained):
    before, after = trained(out_channels=4), small()
    rows = give(before, after)
    x_t, t, cond = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), conditioning(2)
    output = after(x_t, t, cond)
    torch.testing.assert_close(output[:, :4], before(x_t, t, cond), rtol=0, atol=1e-5)
    assert output[:, 4:].abs().max() == 0
    assert fate(rows, "final_layer.linear.bias").action == "converted"


def test_a_learned_variance_is_dropped_and_the_prediction_stays(small, trained):
    before, after = trained(), small(out_channels=4)
    rows = give(before, after)
    x_t, t, cond = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), conditioning(2)
    torch.testing.assert_close(after(x_t, t, cond), before(x_t, t, cond)[:, :4], rtol=0, atol=1e-5)
    assert "without its variance half" in fate(rows, "final_layer.linear.weight").detail


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"patch_size": 4}, "tensor 'x_embedder.proj.weight'"),
        ({"dim": 96}, "tensor 'x_embedder.proj.weight'"),
        ({"in_channels": 3, "out_channels": 6}, "tensor 'x_embedder.proj.weight'"),
        ({"depth": 3}, "tensor 'blocks.2.scale_shift_table' of the model is missing"),
        ({"depth": 1}, "tensor 'blocks.1.scale_shift_table' of the weights to start from has no place"),
        ({"text_dim": 24}, "tensor 'y_embedder.y_proj.fc1.weight'"),
        ({"text_dim": None}, "tensor 'y_embedder.y_proj.fc1.weight' of the weights to start from has no place"),
        ({"num_classes": 5}, "tensor 'y_embedder.embedding_table.weight' of the model is missing"),
        ({"mlp_ratio": 2.0}, "tensor 'blocks.0.mlp.fc1.weight'"),
        ({"out_channels": 12}, "tensor 'final_layer.linear.weight'"),
        ({"num_heads": 6}, "num_heads is 4"),
        ({"adaln": "per_block"}, "adaln is single"),
    ],
)
def test_a_difference_without_a_rule_is_named_and_leaves_the_model_untouched(small, trained, changes, words):
    model = small(**changes)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        give(trained(), model)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"t_block.1.bias": None}, "tensor 't_block.1.bias' of the model is missing"),
        ({"blocks.0.cross_attn.proj.weight": None}, "tensor 'blocks.0.cross_attn.proj.weight' of the model is missing"),
        ({"pos_embed": torch.zeros(1, 16, 48)}, "tensor 'pos_embed' of the weights to start from has no place"),
    ],
)
def test_a_missing_or_unknown_tensor_is_named(small, trained, change, words):
    source = trained()
    tensors = {name: tensor for name, tensor in (source.state_dict() | change).items() if tensor is not None}
    with pytest.raises(ValueError, match=words):
        hand_off((tensors, source.config), small())


def test_a_snapshot_is_handed_off_like_its_tensors(small, trained, tmp_path):
    source, first, second = trained(**STAGE_1), small(), small()
    path = tmp_path / "a.safetensors"
    write_snapshot(
        path, source.state_dict(), model_config=source.config, run_config={}, stamps={}, step=1, samples_seen=1
    )
    assert hand_off(read_snapshot(path), first) == give(source, second)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_the_table_of_28_blocks_fits_45_lines_of_plain_text(small, trained):
    narrow = {"dim": 8, "num_heads": 1, "depth": 28}
    table = format_table(give(trained(**STAGE_1, **narrow), small(**narrow, input_size=16)))
    lines = table.splitlines()
    assert len(lines) <= 45
    assert "blocks.0-27.attn.qkv.weight" in table
    assert [line.split()[1] for line in lines if line.startswith("blocks.0-27.cross_attn.proj.weight")] == ["fresh"]
    assert max(len(line) for line in lines) <= 120


def test_blocks_of_another_fate_stand_on_their_own_line():
    rows = [Row(f"blocks.{i}.a", "fresh" if i == 2 else "copied", "") for i in range(5)]
    assert format_table(rows).splitlines() == ["blocks.0-1,3-4.a  copied", "blocks.2.a        fresh"]
