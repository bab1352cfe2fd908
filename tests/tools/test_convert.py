"""The door: one command a conversion, one sentence a mistake."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
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
    assert capsys.readouterr().out == ""
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.safetensors", "dit.pt"]


def test_diffusers_and_back_with_the_null_caption_of_the_original(official, tmp_path, monkeypatch):
    convert(monkeypatch, f"source={official}", "to=diffusers", f"out={tmp_path / 'd'}", "num_heads=4")
    back = [f"source={tmp_path / 'd'}", "to=pixart", f"out={tmp_path / 'b.pth'}"]
    convert(monkeypatch, *back, f"null_caption={official}")
    start, end = torch.load(official)["state_dict"], torch.load(tmp_path / "b.pth")["state_dict"]
    assert [name for name in start if name != "pos_embed" and not torch.equal(end[name], start[name])] == []
    convert(monkeypatch, *back[:-1], f"out={tmp_path / 'c.pth'}", "text_encoder=shapes-t5")
    assert torch.load(tmp_path / "c.pth")["state_dict"]["y_embedder.y_embedding"].shape == (120, 64)


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


def broken(how: str, path: Path, mark: Path) -> None:
    """Spoil the .pth at ``path`` in one of six ways."""
    content = torch.load(path)["state_dict"]
    if how == "renamed":
        content["blocks.1.attn.qkw.bias"] = content.pop("blocks.1.attn.qkv.bias")
    elif how == "missing":
        del content["blocks.1.cross_attn.proj.bias"]
    elif how == "wrong shape":
        content["blocks.0.scale_shift_table"] = torch.zeros(4, 48)
    elif how == "malicious":
        content = {**content, "epoch": Malicious(f"touch {mark}")}
    torch.save({"state_dict": content}, path)
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    elif how == "bomb":
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data/999", bytes(1 << 26))


class Malicious:
    """Unpickles to the result of a shell command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("to", ["snapshot", "diffusers"])
@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("renamed", "tensor 'blocks.1.attn.qkw.bias' is unknown to the model"),
        ("missing", "tensor 'blocks.1.cross_attn.proj.bias' is missing"),
        ("wrong shape", "tensor 'blocks.0.scale_shift_table' is (4, 48), not (6, 48)"),
        ("truncated", "not a whole file"),
        ("bomb", "would unpack to more than its own size"),
        ("malicious", "its pickle asks for posix.system, which weights never need; it is not opened"),
    ],
)
def test_a_file_broken_in_6_ways_is_1_sentence_a_code_of_1_no_table_and_nothing_written(
    official, tmp_path, monkeypatch, capsys, how, sentence, to
):
    broken(how, official, tmp_path / "mark")
    with pytest.raises(SystemExit) as caught:
        convert(monkeypatch, f"source={official}", f"to={to}", f"out={tmp_path / 'out'}", "num_heads=4")
    assert isinstance(caught.value.code, str)  # which Python prints to stderr, and leaves with 1
    assert caught.value.code.startswith(f"error: {official}: ")
    assert sentence in caught.value.code
    assert "\n" not in caught.value.code
    assert capsys.readouterr().out == ""
    assert [file.name for file in tmp_path.iterdir()] == ["official.pth"]


PEAK = """
import re, runpy, sys
sys.path.insert(0, ".")
import pixart.config, pixart.door, pixart.formats
def memory(key):  # the kernel's own mark of this process; getrusage would also count what its parent held before
    return int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
imported = memory("VmRSS")
sys.argv = ["convert.py", *sys.argv[1:]]
runpy.run_path("tools/convert.py", run_name="__main__")
print("PEAK", memory("VmHWM"), imported)
"""


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Path]:
    """A folder that does not outlive the test: it comes to hold 12 GB."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def peak(source: Path, to: str, out: Path, *others: str) -> tuple[float, float]:
    """The most that a conversion holds in units of its source: all in all, and beyond what is imported."""
    command = [sys.executable, "-c", PEAK, f"source={source}", f"to={to}", f"out={out}", *others]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    most, imported = map(int, done.stdout.split("PEAK")[1].split())
    size = sum(file.stat().st_size for file in [source, *source.glob("*")] if file.is_file())
    return round(most / size, 2), round((most - imported) / size, 2)


def unequal(start: Path, end: Path) -> list[str]:
    first, last = (torch.load(path, mmap=True)["state_dict"] for path in (start, end))
    assert first.keys() == last.keys()
    return [name for name in first if name != "pos_embed" and not torch.equal(first[name], last[name])]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 2.4e9), (torch.float16, 1.2e9)])
def test_converting_xl_2_takes_no_more_memory_than_twice_its_2_4_or_1_2_gb(large, dtype, size):
    start, half = large / "PixArt-XL-2-1024-MS.pth", dtype == torch.float16
    content = foreign.fill(foreign.pixart_shapes(side=64, sizes=True), scale=2.0)
    torch.save({"state_dict": {name: tensor if name == "pos_embed" else tensor.to(dtype)
                               for name, tensor in content.items()}}, start)  # fmt: skip
    del content
    assert size < start.stat().st_size < 1.1 * size
    ways = [
        (start, "snapshot", large / "a.safetensors", []),
        (start if half else large / "a.safetensors", "diffusers", large / "diffusers", []),
        (large / "diffusers", "snapshot", large / "b.safetensors", []),
        (large / "diffusers", "pixart", large / "end.pth", [f"null_caption={start}"]),
    ]
    peaks = {f"{source.name} -> {to}": peak(source, to, out, *others) for source, to, out, others in ways}
    print(json.dumps(peaks))  # noqa: T201  shown with -s: the numbers of docs/weights.md
    assert max(total for total, _ in peaks.values()) <= 2, json.dumps(peaks)
    assert unequal(start, large / "end.pth") == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_converting_a_dit_xl_2_takes_no_more_memory_than_twice_its_2_7_gb(large):
    start = large / "DiT-XL-2-256x256.pt"
    torch.save(foreign.fill(foreign.dit_shapes()), start)
    total, beyond = peak(start, "snapshot", large / "a.safetensors")
    print(json.dumps([total, beyond]))  # noqa: T201
    assert total <= 2
    held, again = torch.load(start, mmap=True), read(large / "a.safetensors")
    assert again.licence == "CC-BY-NC-4.0"
    assert again.tensors.keys() == held.keys() - {"pos_embed"}
    assert all(torch.equal(tensor, held[name]) for name, tensor in again.tensors.items())
