"""An average made afterwards: in one command, what was tracked to 3 digits and more."""

import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from miniature import Silent, small
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pixart.build.training import run_training
from pixart.formats import posthoc as posthoc_file
from pixart.formats.snapshot import find_snapshot, read_snapshot

ROOT = Path(__file__).resolve().parents[2]
LAST = "step_00000024.safetensors"
BIAS = "final_layer.linear.bias"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 24 steps that tracked what is to be made of the other two."""
    run_dir = tmp_path_factory.mktemp("posthoc") / "run"
    rates = ("ema.decay=0.8", "ema.power=[0.05,0.1,0.13]", "steps=24", "snapshot_every=4", "checkpoint_every=0")
    run_training(small(1, run_dir, *rates, "validate_every=0", "sample_every=0", "data.workers=0"), lambda _: Silent())
    (run_dir / "snapshots" / "power_0.13").rename(run_dir / "tracked")
    return run_dir


@pytest.fixture
def run_dir(trained: Path, tmp_path: Path) -> Path:
    """A copy, to be spoilt."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def posthoc(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """The command in this process."""
    monkeypatch.setattr(sys, "argv", ["posthoc.py", *arguments])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # the door sets it; here it must not outlive the test
    monkeypatch.setattr(sys, "path", [*sys.path])
    runpy.run_path(str(ROOT / "tools" / "posthoc.py"), run_name="__main__")


def vector(path: Path) -> Tensor:
    tensors = read_snapshot(path).tensors
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])


@pytest.mark.parametrize("at_once", [posthoc_file.AT_ONCE, 1000])
def test_a_width_made_of_2_others_is_the_tracked_one_to_1e_3(run_dir, monkeypatch, capsys, at_once) -> None:
    monkeypatch.setattr(posthoc_file, "AT_ONCE", at_once)
    posthoc(monkeypatch, f"run={run_dir}", "sigma_rel=0.13")
    made, tracked = run_dir / "snapshots" / "posthoc_power_0.13" / LAST, run_dir / "tracked" / LAST
    assert str(made) in capsys.readouterr().out
    wanted, start = vector(tracked), vector(run_dir / "tracked" / "step_00000004.safetensors")
    error = (vector(made) - wanted).norm()
    assert error < 1e-3 * wanted.norm()  # the promise
    assert error < 5e-3 * (wanted - start).norm()  # and of the way that the weights went
    assert error < 0.02 * (vector(run_dir / "snapshots" / "power_0.1" / LAST) - wanted).norm()  # the nearest stored
    told, before = read_snapshot(made), read_snapshot(tracked)
    assert told.profile is not None
    assert (told.profile["sigma_rel"], told.profile["made_of"]) == (0.13, 12)
    assert 0 < told.profile["error"] < 0.05
    assert told._replace(tensors={}, profile=None) == before._replace(tensors={}, profile=None)
    assert find_snapshot(run_dir) == run_dir / "snapshots" / LAST


def test_an_exponential_average_and_a_gamma_at_an_earlier_step_are_made_too(run_dir, tmp_path, monkeypatch) -> None:
    out = tmp_path / "made.safetensors"
    posthoc(monkeypatch, f"run={run_dir}", "decay=0.8", "step=20", f"out={out}")
    primary = vector(run_dir / "snapshots" / "step_00000020.safetensors")
    assert (vector(out) - primary).norm() < 1e-3 * primary.norm()
    assert read_snapshot(out).step == 20
    posthoc(monkeypatch, f"run={run_dir}", "gamma=6.937203937601806", f"out={tmp_path / 'same.safetensors'}")
    stored = vector(run_dir / "snapshots" / "power_0.1" / LAST)
    assert (vector(tmp_path / "same.safetensors") - stored).norm() < 1e-6 * stored.norm()


def rewritten(path: Path, change: Callable[[dict[str, str], dict[str, Tensor]], None]) -> None:
    with safe_open(path, framework="pt") as file:
        metadata, tensors = dict(file.metadata()), {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    change(metadata, tensors)
    save_file(tensors, path, metadata=metadata)


def spoilt(how: str, run_dir: Path) -> Path:
    """One of the stored files made unusable."""
    path = run_dir / "snapshots" / "power_0.05" / "step_00000008.safetensors"
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "no snapshot":
        save_file({"x": torch.zeros(1)}, path)
    elif how == "primary":
        shutil.copy(run_dir / "snapshots" / path.name, path)
    elif how == "other step":
        shutil.copy(path.with_name(LAST), path)
    elif how == "other width":
        shutil.copy(run_dir / "snapshots" / "power_0.1" / path.name, path)
    elif how == "other run":
        rewritten(path, lambda metadata, _: metadata.update(run="0" * 64))
    elif how == "NaN":
        rewritten(path, lambda _, tensors: tensors.update({BIAS: torch.full_like(tensors[BIAS], float("nan"))}))
    elif how == "lacks one":
        rewritten(path, lambda _, tensors: tensors.__delitem__(BIAS))
    return path


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("truncated", "not a whole safetensors file"),
        ("no snapshot", "a safetensors file, but not a snapshot of ours"),
        ("primary", "does not say that it is a tracked power average of a run"),
        ("other step", "its metadata says power_0.05 at step 24"),
        ("other width", "its metadata says power_0.1 at step 8"),
        ("other run", "are of different runs"),
        ("NaN", "tensor 'final_layer.linear.bias' holds NaN"),
        ("lacks one", "differ in tensor 'final_layer.linear.bias'"),
    ],
)
def test_a_file_that_is_no_use_in_8_ways_is_named_in_1_sentence_and_nothing_is_written(
    run_dir, monkeypatch, how, sentence
) -> None:
    path = spoilt(how, run_dir)
    with pytest.raises(SystemExit) as caught:
        posthoc(monkeypatch, f"run={run_dir}", "sigma_rel=0.13", f"out={run_dir / 'out.safetensors'}")
    assert str(caught.value).startswith(f"error: {path}")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(run_dir.glob("*out*"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run=???", "sigma_rel=0.1"], "run is not set: give a run directory"),
        (["run={run}"], "by one number: sigma_rel=…, gamma=… or decay=…"),
        (["run={run}", "sigma_rel=0.1", "decay=0.9"], "by one number"),
        (["run={run}", "sigma_rel=0.4"], "sigma_rel=0.4 is out of range"),
        (["run={run}", "gamma=0"], "gamma: input should be greater than 0"),
        (["run={run}", "decay=1"], "decay: input should be less than 1"),
        (["run={run}", "sigma_rel=0.1", "step=9"], "step=9 has no power snapshot in"),
        (["run={run}/none", "sigma_rel=0.1"], "there is no such run directory"),
        (["run={run}/tracked", "sigma_rel=0.1"], "has no power snapshots (snapshots/power_*/step_*.safetensors)"),
        (["run={run}", "sigma_rel=0.1", "out={run}/config.yaml"], "exists already (a file)"),
    ],
)
def test_a_mistake_is_one_sentence(trained, monkeypatch, arguments, sentence) -> None:
    with pytest.raises(SystemExit) as caught:
        posthoc(monkeypatch, *(argument.replace("{run}", str(trained)) for argument in arguments))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
