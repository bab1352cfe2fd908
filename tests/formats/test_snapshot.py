import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from pixart import aside
from pixart.batch import Conditioning
from pixart.formats import snapshot
from pixart.formats.snapshot import find_snapshot, read_snapshot, write_snapshot
from pixart.models.dit import PixArt

ABOUT = {
    "run_config": {"steps": 10, "optimizer": {"lr": 2e-5}},
    "stamps": {"text_encoder": "t5:1", "autoencoder": "pixels"},
    "step": 7,
    "samples_seen": 448,
}


def write(path, model, **changes):
    write_snapshot(path, model.state_dict(), model_config=model.config, **{**ABOUT, **changes})
    return path


def test_a_snapshot_returns_every_bit_and_word_that_was_written(trained, tmp_path):
    model, null = trained(size_conditioning=True), torch.randn(1, 20)
    again = read_snapshot(write(tmp_path / "run" / "a.safetensors", model, null_caption=null))
    assert again.tensors.keys() == model.state_dict().keys()
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(again.null_caption, null)
    assert again.model_config == model.config
    assert (again.run_config, again.stamps) == (ABOUT["run_config"], ABOUT["stamps"])
    assert (again.step, again.samples_seen) == (7, 448)


def test_without_a_null_caption_there_is_none(trained, tmp_path):
    assert read_snapshot(write(tmp_path / "a.safetensors", trained())).null_caption is None


def test_from_pretrained_reads_what_write_snapshot_wrote(trained, tmp_path):
    model = trained(text_dim=None, num_classes=3)
    again = PixArt.from_pretrained(write(tmp_path / "a.safetensors", model))
    x_t, t, cond = torch.randn(2, 4, 8, 8), torch.tensor([5, 600]), Conditioning(label=torch.tensor([1, 3]))
    assert torch.equal(again(x_t, t, cond), model(x_t, t, cond))


def test_weights_are_stored_in_float32_whatever_they_were(trained, tmp_path):
    stored = read_snapshot(write(tmp_path / "a.safetensors", trained().to(torch.bfloat16)))
    assert {tensor.dtype for tensor in stored.tensors.values()} == {torch.float32}


def test_an_older_way_to_say_checkpointing_is_read_and_then_written_as_today(trained, tmp_path):
    model, path = trained(), tmp_path / "a.safetensors"
    older = {key: value for key, value in model.config.items() if key != "checkpointing"} | {"checkpoint_blocks": True}
    write_snapshot(path, model.state_dict(), model_config=older, **ABOUT)
    found = read_snapshot(path)
    assert found.model_config == {**model.config, "checkpointing": "blocks"}
    write_snapshot(path, found.tensors, model_config=found.model_config, **ABOUT)
    assert read_snapshot(path).model_config == found.model_config


def test_a_write_that_fails_leaves_the_old_file_and_no_debris(trained, tmp_path, monkeypatch):
    path = write(tmp_path / "a.safetensors", trained())
    before = path.read_bytes()

    def break_half_way(partial, _tensors, **_words):
        partial.write_bytes(before[:100])
        raise OSError("the disk is full")

    monkeypatch.setattr(snapshot, "write_tensors", break_half_way)
    with pytest.raises(OSError, match="full"):
        write(path, trained())
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_new_file_appears_only_when_whole_and_on_the_disk(trained, tmp_path, monkeypatch):
    seen, flush = [], aside.flush

    def spy(path):
        seen.append((path.name, (tmp_path / "a.safetensors").exists()))
        flush(path)

    monkeypatch.setattr(aside, "flush", spy)
    write(tmp_path / "a.safetensors", trained())
    (partial, early), (directory, late) = seen
    assert partial.endswith(".partial")
    assert directory == tmp_path.name
    assert (early, late) == (False, True)


def test_every_truncation_is_refused_in_one_sentence(trained, tmp_path):
    whole = write(tmp_path / "a.safetensors", trained()).read_bytes()
    cut = tmp_path / "cut.safetensors"
    for length in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        cut.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            read_snapshot(cut)


def test_missing_and_foreign_files_are_refused_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        read_snapshot(tmp_path / "a.safetensors")
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="not a snapshot of ours"):
        read_snapshot(tmp_path / "a.safetensors")


def rewrite(path, trained_model, *, tensors=None, **metadata):
    """A snapshot of a model with some metadata or tensors changed; None takes a piece of metadata out."""
    write(path, trained_model)
    words = {"format": "pixart-snapshot", "model": json.dumps(trained_model.config), "config": "{}", "stamps": "{}"}
    words |= {"step": "1", "samples_seen": "1"} | metadata
    kept = {key: value for key, value in words.items() if value is not None}
    save_file(tensors or load_file(path), path, metadata=kept)
    return path


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"model": None}, "no readable 'model'"),
        ({"config": "{broken"}, "no readable 'config'"),
        ({"stamps": "[]"}, "'stamps' is not an object"),
        ({"step": "many"}, "no number 'step'"),
        ({"samples_seen": None}, "no number 'samples_seen'"),
        ({"model": "{}"}, "cannot be built"),
        ({"config": "[" * 100_000}, "no readable 'config'"),
    ],
)
def test_damaged_metadata_is_named(trained, tmp_path, metadata, words):
    with pytest.raises(ValueError, match=words):
        read_snapshot(rewrite(tmp_path / "a.safetensors", trained(), **metadata))


@pytest.mark.parametrize("shape", [(0, 20), (3, 5), (20,)])
def test_a_null_caption_of_3_shapes_that_no_caption_has_is_refused(trained, tmp_path, shape):
    path = write(tmp_path / "a.safetensors", trained(), null_caption=torch.zeros(shape))
    with pytest.raises(ValueError, match=r"'null_caption' is \(.*\), where captions are \(L, 20\)"):
        read_snapshot(path)
    path = write(tmp_path / "a.safetensors", trained(text_dim=None, num_classes=3), null_caption=torch.zeros(1, 20))
    with pytest.raises(ValueError, match="where there is no text"):
        read_snapshot(path)


def test_integers_among_the_tensors_are_refused_by_name(trained, tmp_path):
    tensors = trained().state_dict() | {"t_block.1.bias": torch.zeros(288, dtype=torch.int32)}
    with pytest.raises(ValueError, match=r"'t_block.1.bias' is no dense tensor of floating-point .* \('torch.int32'\)"):
        read_snapshot(rewrite(tmp_path / "a.safetensors", trained(), tensors=tensors))


def test_a_renamed_a_missing_and_a_misshapen_tensor_are_named(trained, tmp_path):
    model = trained()
    for change, words in [
        ({"t_block.1.bias": None}, "'t_block.1.bias' is missing"),
        ({"t_block.9.bias": torch.zeros(2)}, "'t_block.9.bias' is unknown"),
        ({"t_block.1.bias": torch.zeros(2)}, r"'t_block.1.bias' is \(2,\), not \(288,\)"),
    ]:
        tensors = {name: x for name, x in (model.state_dict() | change).items() if x is not None}
        with pytest.raises(ValueError, match=words):
            read_snapshot(rewrite(tmp_path / "a.safetensors", model, tensors=tensors))


def test_of_a_run_directory_the_highest_step_is_the_newest(tmp_path):
    (tmp_path / "snapshots").mkdir()
    for name in ("step_00000900", "step_00001000", "step_100000000", "step_last", "other_99999999999"):
        (tmp_path / "snapshots" / f"{name}.safetensors").touch()
    (tmp_path / "snapshots" / ".step_200000000.safetensors.1.partial").touch()
    newest = tmp_path / "snapshots" / "step_100000000.safetensors"
    assert find_snapshot(tmp_path) == newest
    assert find_snapshot(newest) == newest


def test_where_no_snapshot_is_one_sentence_says_so(tmp_path):
    with pytest.raises(ValueError, match="no snapshot in this directory"):
        find_snapshot(tmp_path)
    with pytest.raises(ValueError, match="no such file or run directory"):
        find_snapshot(tmp_path / "nowhere")
