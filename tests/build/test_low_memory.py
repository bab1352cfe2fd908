"""``sample.py low_memory=true``: the encoder is gone before anything is drawn, and the pictures are nearly the same."""

import gc
import re
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from miniature import Silent, small
from omegaconf import OmegaConf
from PIL import Image

from pixart.build import drawing
from pixart.build.drawing import open_weights
from pixart.build.training import run_training
from pixart.door import CONFIGS
from pixart.encoders.eight_bit import read_eight_bit
from pixart.encoders.recalled import Recalled
from pixart.encoders.text import TextEncoder
from pixart.formats.snapshot import find_snapshot
from pixart.models.compiled import compile_blocks
from pixart.models.dit import PixArt
from pixart.sampling.pipeline import Pipeline
from sample import sample

PROMPTS = ["a red circle", "a blue ring"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    run_dir = tmp_path_factory.mktemp("run")
    quiet = ("validate_every=0", "sample_every=0", "checkpoint_every=0", "steps=4", "data.workers=0", "log_every=4")
    run_training(small(2, run_dir, *quiet), lambda _: Silent())
    return str(find_snapshot(run_dir))


def drawn(weights: str, out: Path, *overrides: str) -> list[np.ndarray]:
    asked = [f"weights={weights}", f"prompts={PROMPTS}", f"out={out}", "num_inference_steps=2", *overrides]
    with initialize_config_dir(version_base=None, config_dir=str(CONFIGS)):
        values: Any = OmegaConf.to_container(compose("sample", overrides=asked), resolve=True)
    sample({str(key): value for key, value in values.items()})
    return [np.asarray(Image.open(out / f"0000{i}.png")).astype(int) for i in range(len(PROMPTS))]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_pictures_change_by_few_levels_of_256_and_the_peak_is_told(
    weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], precision: str
) -> None:
    plain = drawn(weights, tmp_path / "plain", f"precision={precision}")
    assert "peak memory" not in capsys.readouterr().out
    lean = drawn(weights, tmp_path / "lean", f"precision={precision}", "low_memory=true")
    assert re.search(r"peak memory \d+\.\d\d GiB on (cpu|cuda)", capsys.readouterr().out)
    for one, other in zip(plain, lean, strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other).mean() < 3


@pytest.mark.parametrize(
    ("asked", "together"),
    [([], 16), (["low_memory=true"], 1), (["low_memory=true", "batch_size=2", "decode_batch=2"], 2)],
)
def test_pictures_are_drawn_one_by_one_where_memory_is_low_unless_asked_otherwise(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str], together: int
) -> None:
    heard: dict[str, Any] = {}
    monkeypatch.setattr(Pipeline, "__call__", lambda _, **told: heard.update(told))
    with pytest.raises(TypeError):  # of what is no list of pictures
        drawn(weights, tmp_path, *asked)
    assert (heard["batch_size"], heard["decode_batch"]) == (together, 2 if "decode_batch=2" in asked else 1)


@pytest.mark.parametrize("low_memory", ["false", "true"])
def test_words_that_the_encoder_does_not_know_are_told_before_anything_is_drawn(
    weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, low_memory: str
) -> None:
    monkeypatch.setattr(Pipeline, "__call__", lambda *_, **__: None)
    asked = [f"low_memory={low_memory}", "prompts=['a red zebra','a red circle']"]
    with pytest.raises(TypeError):  # of what is no list of pictures
        drawn(weights, tmp_path, *asked)
    assert capsys.readouterr().err == "note: the text encoder does not know: zebra (1 of 2 prompts)\n"


def test_the_encoder_is_free_before_the_model_is_asked_for_anything(
    weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    release, forward = TextEncoder.release, PixArt.forward
    monkeypatch.setattr(TextEncoder, "release", lambda self: order.append("released") or release(self))
    monkeypatch.setattr(PixArt, "forward", lambda self, *told: order.append("asked") or forward(self, *told))
    opened = open_weights(weights, precision=None, text_source=None, autoencoder_source=None, low_memory=PROMPTS)
    assert isinstance(opened.pipeline.text_encoder, Recalled)
    opened.pipeline(
        prompts=PROMPTS, seeds=[0, 1], sizes=[opened.sizes[0]] * 2, guidance_channels="all", batch_size=1,
        **opened.habits._replace(num_inference_steps=2)._asdict(),
    )  # fmt: skip
    assert order == ["released", *["asked"] * 4]


def test_the_encoder_is_gone_at_once_even_where_a_cycle_holds_it(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Any]] = []

    def read(*told: Any) -> Any:
        model = read_eight_bit(*told)
        model.held = [model]
        made.append(weakref.ref(model))
        return model

    monkeypatch.setattr("pixart.encoders.text.read_eight_bit", read)
    gc.disable()
    try:
        open_weights(weights, precision=None, text_source=None, autoencoder_source=None, low_memory=PROMPTS)
        assert [one() for one in made] == [None]
    finally:
        gc.enable()


def test_weights_and_encoder_are_never_in_memory_together(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[weakref.ref[Any]] = []
    held: list[int] = []
    told, encode = drawing.read_told, Recalled.__init__

    def read_told(source: str) -> Any:
        found = told(source)
        read.extend(weakref.ref(tensor) for tensor in found.tensors.values())
        return found

    def recall(*asked: Any) -> None:
        held.append(sum(one() is not None for one in read))
        encode(*asked)

    monkeypatch.setattr(drawing, "read_told", read_told)
    monkeypatch.setattr(Recalled, "__init__", recall)
    open_weights(weights, precision=None, text_source=None, autoencoder_source=None, low_memory=PROMPTS)
    assert held == [0]
    assert len(read) > 20


_HELD = """
import gc, sys
from pixart.build.drawing import open_weights
from pixart.formats import Weights
opened = open_weights(sys.argv[1], precision=None, text_source=None, autoencoder_source=None)
gc.collect()
print(sum(isinstance(one, Weights) for one in gc.get_objects()))
"""


def test_0_of_what_was_read_is_held_once_the_model_is_made_though_xformers_keeps_who_imports_it(tmp_path: Path) -> None:
    latents = ("autoencoder=shapes_kl", "model.patch_size=1")  # an AutoencoderKL, of diffusers, which imports it
    quiet = ("validate_every=0", "sample_every=0", "checkpoint_every=0", "steps=1", "data.workers=0", "log_every=1")
    run_training(small(2, tmp_path, *latents, *quiet), lambda _: Silent())
    finished = subprocess.run(  # once in a process
        [sys.executable, "-c", _HELD, str(tmp_path)], cwd=CONFIGS.parent, capture_output=True, text=True, check=True
    )
    assert finished.stdout == "0\n"


def test_compiled_guided_in_an_interval_and_decoded_in_twos_the_door_draws_2_pictures(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "compile_blocks", lambda *told: compile_blocks(*told, backend="eager"))
    plain = drawn(weights, tmp_path / "plain", "guidance_interval=[0.0,1.0]")
    other = drawn(weights, tmp_path / "other", "compile=true", "decode_batch=2", "tiled=true")
    for one, again in zip(plain, other, strict=True):
        assert np.abs(one - again).max() <= 1
