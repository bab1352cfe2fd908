"""Kinds of weights, told by content."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from pixart.formats.looking import look


@pytest.mark.parametrize("name", ["weights", "weights.pth", "weights.safetensors"])
def test_safetensors_are_known_by_their_content_under_3_names(tmp_path, name):
    save_file({"a": torch.zeros(1)}, tmp_path / name, metadata={"format": "pixart-snapshot"})
    assert look(tmp_path / name) == "ours"


def test_files_of_torch_of_both_ages_and_3_kinds_of_folders_are_told_apart(tmp_path):
    for zipped in (True, False):
        torch.save({}, tmp_path / "weights", _use_new_zipfile_serialization=zipped)
        assert look(tmp_path / "weights") == "official"
    (tmp_path / "d").mkdir()
    assert look(tmp_path / "d") == "ours"  # a run directory
    (tmp_path / "d" / "config.json").touch()
    assert look(tmp_path / "d") == "transformer"
    (tmp_path / "d" / "model_index.json").write_text('{"_class_name": "PixArtAlphaPipeline"}')
    assert look(tmp_path / "d") == "pipeline"


@pytest.mark.parametrize("kind", ["PixArtSigmaPipeline", "StableDiffusionPipeline", None])
def test_a_pipeline_of_another_kind_is_refused_by_its_name(tmp_path, kind):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    with pytest.raises(ValueError, match=f"describes a '{kind}', not a PixArtAlphaPipeline; .*/transformer alone"):
        look(tmp_path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n", "pointer of a Git LFS file"),
        (b"\n <!DOCTYPE html><html>404</html>", "is a web page"),
        (b"<html>", "is a web page"),
        (b"\x10\0\0\0\0\0\0\0{", "not a whole safetensors file; write or copy it again$"),
    ],
)
def test_4_files_that_only_stand_for_weights_are_named_for_what_they_are(tmp_path, content, sentence):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        look(tmp_path / "a.pth")


def test_safetensors_and_shards_without_a_configuration_ask_for_their_folder(tmp_path):
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match=r"not a snapshot of ours: .* with its config\.json"):
        look(file)
    with pytest.raises(ValueError, match=r"holds weights of diffusers without their config\.json"):
        look(tmp_path)


@pytest.mark.timeout(20)
def test_a_pipe_a_path_too_long_and_nothing_at_all_are_1_sentence_each(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, sentence in [
        (tmp_path / "pipe", "a device or a pipe; give a file"),
        (tmp_path / ("a" * 300), "cannot be opened \\(File name too long\\)"),
        (tmp_path / "none", "there is no such file or run directory"),
    ]:
        with pytest.raises(ValueError, match=sentence) as caught:
            look(path)
        assert "\n" not in str(caught.value)
