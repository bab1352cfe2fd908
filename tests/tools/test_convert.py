"""The door: one command a conversion, one sentence a mistake."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import foreign
import pytest
import torch

from pixart.formats import load, read

ROOT = Path(__file__).resolve().parents[2]
SMALL: dict[str, Any] = {"dim": 48, "depth": 2, "side": 4}


def convert(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """The command in this process."""
    import runpy

    monkeypatch.setattr(sys, "argv", ["convert.py", *arguments])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # the door sets it; here it must not outlive the test
    monkeypatch.setattr(sys, "path", [*sys.path])
    runpy.run_path(str(ROOT / "tools" / "convert.py"), run_name="__main__")


@pytest.fixture
def official(tmp_path: Path) -> Path:
    path = tmp_path / "official.pth"
    torch.save({"state_dict": foreign.fill(foreign.pixart_shapes(**SMALL, text_dim=64, rows=7))}, path)
    return path


def test_a_pth_becomes_a_snapshot_and_every_tensor_is_shown(official, tmp_path, monkeypatch, capsys):
    out = tmp_path / "a.safetensors"
    convert(monkeypatch, f"source={official}", "to=snapshot", f"out={out}", "num_heads=4")
    shown = capsys.readouterr().out
    assert "official.pth: PixArt file, state_dict" in shown
    assert "blocks.0-1.attn.qkv.weight" in shown
    assert "null_caption" in shown
    assert max(len(line) for line in shown.splitlines()) <= 120 + len(str(tmp_path))
    assert torch.equal(load(out).t_block[1].bias, torch.load(official)["state_dict"]["t_block.1.bias"])


def test_a_dit_becomes_a_snapshot_with_its_licence_and_nothing_else(tmp_path, monkeypatch, capsys):
    path = tmp_path / "dit.pt"
    torch.save(foreign.fill(foreign.dit_shapes(**SMALL, classes=5)), path)
    convert(monkeypatch, f"source={path}", "to=snapshot", f"out={tmp_path / 'a.safetensors'}", "num_heads=4")
    assert "licence CC-BY-NC-4.0" in capsys.readouterr().out
    assert read(tmp_path / "a.safetensors").licence == "CC-BY-NC-4.0"
    for to in ("pixart", "diffusers", "diffusers-pipeline"):
        with pytest.raises(SystemExit, match=f"to={to} cannot hold a model of labels"):
            convert(monkeypatch, f"source={path}", f"to={to}", f"out={tmp_path / to}", "num_heads=4")


def test_diffusers_and_back_with_the_null_caption_of_the_original(official, tmp_path, monkeypatch):
    convert(monkeypatch, f"source={official}", "to=diffusers", f"out={tmp_path / 'd'}", "num_heads=4")
    back = [f"source={tmp_path / 'd'}", "to=pixart", f"out={tmp_path / 'b.pth'}"]
    convert(monkeypatch, *back, f"null_caption={official}")
    start, end = torch.load(official)["state_dict"], torch.load(tmp_path / "b.pth")["state_dict"]
    assert [name for name in start if name != "pos_embed" and not torch.equal(end[name], start[name])] == []
    convert(monkeypatch, *back, "text_encoder=shapes-t5")
    assert torch.load(tmp_path / "b.pth")["state_dict"]["y_embedder.y_embedding"].shape == (120, 64)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "error: source is not set: give the weights, source=…"),
        (["source=a.pth"], "error: to is not set: give a format, to=…"),
        (["source=a.pth", "to=snapshot"], "error: out is not set: give where to write, out=…"),
        (["source=a.pth", "to=onnx", "out=b"], "error: to: "),
        (["source=none.pth", "to=snapshot", "out=b"], "none.pth: there is no such file"),
        (["source=a.pth", "to=snapshot", "out=b", "heads=4"], "heads"),
    ],
)
def test_a_mistake_is_one_sentence(monkeypatch, arguments, sentence):
    with pytest.raises(SystemExit) as caught:
        convert(monkeypatch, *arguments)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


PEAK = """
import re, runpy, sys
sys.argv = ["convert.py", *sys.argv[1:]]
runpy.run_path("tools/convert.py", run_name="__main__")
# The kernel's own mark of this process; getrusage would also count what its parent held before.
print("PEAK", int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024)
"""


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Path]:
    """A folder that does not outlive the test: it comes to hold 12 GB."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_converting_xl_2_takes_no_more_memory_than_twice_its_2_4_gb(large):
    shapes = foreign.pixart_shapes(side=64, sizes=True)
    start = large / "PixArt-XL-2-1024-MS.pth"
    torch.save({"state_dict": foreign.fill(shapes, scale=2.0)}, start)
    size = start.stat().st_size
    assert size > 2.4e9
    ways = [
        (start, "snapshot", large / "a.safetensors", []),
        (large / "a.safetensors", "diffusers", large / "diffusers", []),
        (large / "diffusers", "snapshot", large / "b.safetensors", []),
        (large / "diffusers", "pixart", large / "end.pth", [f"null_caption={large / 'a.safetensors'}"]),
    ]
    peaks = {}
    for source, to, out, others in ways:
        command = [sys.executable, "-c", PEAK, f"source={source}", f"to={to}", f"out={out}", *others]
        done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        peaks[f"{source.name} -> {to}"] = int(done.stdout.split("PEAK")[1]) / size
    assert max(peaks.values()) <= 2, json.dumps(peaks)
    first, last = (torch.load(path, mmap=True)["state_dict"] for path in (start, large / "end.pth"))
    assert [name for name in first if name != "pos_embed" and not torch.equal(first[name], last[name])] == []
