"""Laws of finding an encoder's files and of their fingerprint."""

from pathlib import Path

import pytest

from pixart.encoders.source import find_folder, fingerprint, refuse_missing, require


def test_a_fingerprint_changes_with_bytes_names_and_settings_and_not_with_the_place(tmp_path: Path) -> None:
    def written(folder: str, name: str = "config.json", content: bytes = b"{}") -> Path:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_bytes(content)
        return tmp_path / folder / name

    here = fingerprint([written("here")], dtype="float32")
    assert len(here) == 16
    assert here == fingerprint([written("there")], dtype="float32")
    others = {
        fingerprint([written("here", content=b"{ }")], dtype="float32"),
        fingerprint([written("here", name="other.json")], dtype="float32"),
        fingerprint([written("there")], dtype="float16"),
        fingerprint([], dtype="float32"),
    }
    assert len(others | {here}) == 5


def test_bytes_that_move_from_one_file_to_the_next_change_the_fingerprint(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"xy")
    second.write_bytes(b"z")
    before = fingerprint([first, second])
    first.write_bytes(b"x")
    second.write_bytes(b"yz")
    assert fingerprint([second, first]) != before


def test_a_missing_folder_is_one_sentence_with_the_key_and_the_mend(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^text_encoder\.source: no folder '.*nowhere'; give a folder .* hub name$"):
        find_folder(str(tmp_path / "nowhere"), key="text_encoder.source", files=["config.json"])


def test_a_hub_name_without_network_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"^autoencoder\.source: 'nobody/nothing' is neither .* where there is a network$"
    ):
        find_folder("nobody/nothing", key="autoencoder.source", files=["config.json"])


def test_a_folder_without_weights_is_refused_with_the_mend(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"^k: .* holds no model\*\.safetensors; convert it$"):
        require(tmp_path, ["config.json", "model*.safetensors"], key="k", mend="convert it")


def test_weights_that_lack_tensors_are_refused_and_complete_ones_pass() -> None:
    refuse_missing([], Path("f"), key="k")
    with pytest.raises(ValueError, match=r"^k: the weights in f lack 2 tensors, the first is a;"):
        refuse_missing(["b", "a"], Path("f"), key="k")
