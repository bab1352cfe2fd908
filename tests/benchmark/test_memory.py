"""Memory is measured in processes of their own; what a device cannot do is said."""

import sys
from pathlib import Path

import pytest
import torch
from measuring import composed, measured
from safetensors.torch import load_file

from pixart.benchmark import frugal, memory
from pixart.benchmark.alone import held_mib, peak_mib, run_alone
from pixart.benchmark.memory_step import peak_of_step
from pixart.config import parse
from pixart.encoders.autoencoder import load_autoencoder
from pixart.encoders.text import load_text_encoder
from pixart.formats.reading import load

TINY = [
    *("device=cpu", "model.dim=48", "model.num_heads=4", "text={dim:20,mean:3,longest:6}"),
    *("cpu.resolution=32", "cpu.depth=1", "cpu.batches=[2,64]", "cpu.checkpointing=[selective]", "cpu.adaln_batch=2"),
]


def test_every_batch_has_its_peak_or_a_line_and_one_modulation_saves_what_it_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def peak(case, *, adaln: str, **_):
        return None if case.batch > 32 else {"single": 768.0, "per_block": 1024.0}[adaln]

    monkeypatch.setattr(memory, "peak_of_step", peak)
    said: list[str] = []
    figures = measured("memory", tmp_path, *TINY, said=said)
    assert figures["32 px, checkpointing selective, micro-batch 2: peak of a step"].value == 0.75
    assert "32 px, checkpointing selective, micro-batch 64: peak of a step" not in figures
    assert any("micro-batch 64" in line and "does not fit the memory" in line for line in said)
    single, per_block = (figures[f"adaln {adaln}: parameters"].value for adaln in ("single", "per_block"))
    saved = figures["parameters saved by adaln single (paper: 0.26)"].value
    assert saved == pytest.approx(1 - single / per_block)
    assert figures["memory saved by adaln single (paper: 0.21)"].value == 0.25
    assert any("stage 3" in line and "not on this device" in line for line in said)
    assert any("not without suites.memory.cpu.low_memory_steps=2" in line for line in said)


def test_frugal_sampling_of_1024_pixels_takes_the_steps_asked_for_and_has_the_peak_that_its_process_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(memory, "peak_of_step", lambda *_, **__: 1.0)
    monkeypatch.setattr(frugal, "_write", lambda _, case, *__: asked.append({"side": case.resolution}))
    monkeypatch.setattr(frugal, "run_alone", lambda _, told: asked.append(told) or {"peak": 3 * 2**30})
    figures = measured("memory", tmp_path, *TINY, "cpu.low_memory_steps=2")
    figure = figures["low_memory sampling, 1024 px, 2 steps, T5-XXL and XL/2: peak"]
    assert (figure.value, figure.target) == (3, "<= 8")
    assert asked[0] == {"side": 1024}
    assert (asked[1]["steps"], asked[1]["device"]) == (2, "cpu")


def test_a_step_in_a_process_of_its_own_takes_at_least_its_weights_gradients_and_averages():
    values = composed("suite=memory", *(f"suites.memory.{setting}" for setting in TINY), "suites.memory.model.dim=384")
    settings = parse(values["suites"]["memory"], memory.Settings)
    case = memory._case(settings.cpu, batch=2, checkpointing="none")
    peak = peak_of_step(
        case,
        model=settings.model,
        objective=settings.objective,
        text=settings.text,
        device=torch.device("cpu"),
        adaln="per_block",
    )
    assert peak is not None
    assert 384**2 * 20 * 4 * 4 / 2**20 < peak < 2000  # a block has 20 D^2 weights and more


def test_random_weights_of_three_models_are_written_as_the_door_reads_and_draws_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # the door sets it; here it must not outlive the test
    small = {**frugal._XXL, "vocab_size": 300, "d_model": 16, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    monkeypatch.setattr(frugal, "_XXL", small)
    monkeypatch.setattr(frugal, "_AUTOENCODER", (32, 32))
    values = composed("suite=memory", *(f"suites.memory.{setting}" for setting in TINY))
    settings = parse(values["suites"]["memory"], memory.Settings)
    case = memory._case(settings.cpu, batch=1, checkpointing="none")
    frugal._write(settings.model, case, tmp_path, torch.device("cpu"))
    assert 0 < frugal._measured(str(tmp_path), steps=1, device="cpu") < 8 * 2**30
    assert (tmp_path / "out" / "00000.png").is_file()
    text = load_text_encoder(str(tmp_path), max_tokens=6, cleaning="none", dtype=torch.bfloat16)
    assert text.dim == 16
    written = load_file(tmp_path / "text_encoder" / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}
    assert all(tensor.any() for tensor in written.values())
    assert load(tmp_path / "transformer").config["dim"] == 48
    picture = load_autoencoder(str(tmp_path), dtype=torch.float32).decode(torch.zeros(1, 4, 2, 2))
    assert picture.shape == (1, 3, 4, 4)


def test_a_process_that_fails_says_why():
    with pytest.raises(RuntimeError, match=r"No module named pixart\.nothing"):
        run_alone("pixart.nothing", {})


def test_a_process_holds_at_most_its_peak():
    assert 0 < held_mib() <= peak_mib()
