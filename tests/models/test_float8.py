"""Laws of float8: which layers, how far from what they were, and what it refuses; torchao stands beside the rest."""

import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch
from scripts import run_script

from pixart.models.float8 import check_float8

TORCHAO = Path(__file__).resolve().parents[2] / ".venv" / "float8"  # see tools/test.sh


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if torchao were there."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)


def test_layers_over_image_tokens_multiply_in_float8_and_a_run_resumes_to_the_bit(tmp_path, monkeypatch):
    if not (TORCHAO / ".installed").is_file():
        pytest.skip("no .venv/float8: tools/test.sh makes it")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TORCHAO), os.environ.get("PYTHONPATH", "")]))
    told = json.loads(run_script("float8.py", str(tmp_path)).splitlines()[-1])
    layers = ["attn.proj", "attn.qkv", "cross_attn.proj", "cross_attn.q_linear", "mlp.fc1", "mlp.fc2"]
    for recipe in ("rowwise", "tensorwise"):
        assert told[recipe]["layers"] == [f"blocks.{i}.{layer}" for i in range(2) for layer in layers]
        assert told[recipe]["kept"]
        assert all(1e-4 < apart < 0.1 for apart in told[recipe]["apart"])  # 3 bits of a product's factors are rounded
        assert told[recipe]["compiled"] < 1e-2
        assert told[recipe]["recomputed"] == [0, 0]
        assert told[recipe]["bf16"] < 0.1
    assert told["sizes"].startswith(
        "float8=rowwise needs sizes that are multiples of 16, and a block's attn.qkv has 40 x"
    )
    assert told["benchmark"]["two_blocks: float8_ratio_vs_eager"] > 0
    assert told["benchmark"]["two_blocks: ours_float8 images_per_second"] > 0
    assert told["runs"]["resumed"]
    assert not told["runs"]["plain"]
    assert "float8 (was rowwise, is none)" in told["runs"]["refused"]


def test_without_torchao_it_is_refused_with_the_mend(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    check_float8("none", "cpu", precision="fp32")
    with pytest.raises(
        ValueError, match=r"float8=rowwise needs the package torchao: pip install torchao==0\.18\.0, or"
    ):
        check_float8("rowwise", "cpu", precision="fp32")


def test_nobody_is_sent_for_torchao_whose_gpu_cannot_use_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    with pytest.raises(ValueError, match=r"capability 8\.9 or more"):
        check_float8("rowwise", "cuda", precision="bf16")


@pytest.mark.usefixtures("found")
def test_an_older_gpu_and_another_precision_are_refused(monkeypatch):
    check_float8("tensorwise", "cpu", precision="fp32")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    with pytest.raises(ValueError, match=r"capability 8\.9 or more, as Ada and Hopper have, and this one has 8\.0"):
        check_float8("tensorwise", "cuda", precision="bf16")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    check_float8("tensorwise", "cuda", precision="bf16")
    with pytest.raises(ValueError, match="float8=tensorwise goes with precision=bf16, not fp16"):
        check_float8("tensorwise", "cuda", precision="fp16")
