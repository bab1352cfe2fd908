"""The suite of data in miniature: everything it measures is measured on equal content."""

import gc
import json
import runpy
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from measuring import composed

from pixart.benchmark import data, price, suites, tiny
from pixart.benchmark.latents import Made, _Official, write_official, write_shards_of
from pixart.benchmark.pictures import examples_of
from pixart.benchmark.record import Figure
from pixart.benchmark.suites import run_suites
from pixart.data.dataset import Cut
from pixart.data.features import dequantised
from pixart.data.storage.shards import Shards

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    *("batch=2", "feature_samples=2", "token_lengths=[4]", "pictures=3", "side=32", "plan_samples=3000"),
    *("plan_shards=3", "plan_batches=[4]", "plan_ks=[10000000]", "index_samples=5", "index_rounds=1"),
]


def test_both_layouts_hold_the_same_latents_masks_and_states_to_the_error_of_8_bits(tmp_path: Path):
    made = Made(3, length=5, seed=0)
    write_official(tmp_path / "official", made)
    write_shards_of(tmp_path / "ours", made, dtype="int8")
    official = _Official(tmp_path / "official")
    batch = examples_of(Shards(tmp_path / "ours"), side=256, batch=3, max_tokens=120, seed=0)[Cut(0, 0, 3)]
    assert batch.moments is not None
    assert batch.states is not None
    assert batch.mask is not None
    states = dequantised(batch.states, batch.state_scales)
    for i, key in enumerate(batch.keys):
        _, theirs, mask = official[int(key)]
        np.testing.assert_array_equal(batch.moments[i].float(), np.load(tmp_path / "official" / f"{int(key)}.npy"))
        if batch.mask[i].sum() == 1 and mask.sum() > 1:
            continue  # its caption was dropped
        assert torch.equal(batch.mask[i], mask[0].bool())
        real = theirs[0][mask[0].bool()]
        assert (states[i][batch.mask[i]] - real).abs().max() <= real.abs().max() / 254 * 1.001


def test_the_door_measures_the_suite_of_data_prints_the_table_and_writes_the_record(monkeypatch, capsys, tmp_path):
    settings = [f"suites.data.{setting}" for setting in TINY]
    files = [f"json={tmp_path}/data.json", f"table={tmp_path}/data.md", f"scratch={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "suite=data", "rounds=1", *files, *settings])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # the door sets it; here it must not outlive the test
    monkeypatch.setattr(sys, "path", [*sys.path])
    runpy.run_path(str(ROOT / "tools" / "benchmark.py"), run_name="__main__")
    shown = capsys.readouterr().out
    figures = {figure["name"]: figure for figure in json.loads((tmp_path / "data.json").read_text())["figures"]}
    assert all(figure["value"] > 0 for figure in figures.values())
    assert figures["images to 32 px: ours against webdataset"]["target"] == ">= 1"
    assert figures["latents and 4 tokens: ours, int8 against official layout"]["target"] == ">= 10"
    assert figures["batch of 4 at k = 10,000,000: from then on"]["unit"] == "ms"
    assert all(name in shown and name in (tmp_path / "data.md").read_text() for name in figures)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.json", "data.md"]


def test_a_wrong_setting_is_one_sentence_before_anything_is_measured():
    with pytest.raises(ValueError, match="side: input should be greater than 0, not 0"):
        run_suites({"data": {"side": 0}}, rounds=1, seed=0, scratch=None, say=lambda _: None)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["suite=data", "json={0}"], "json={0} is a folder and no file"),
        (["suite=data", "json={0}/one", "table={0}/one"], "json={0}/one and table={0}/one are one file"),
        (
            ["suite=price", "suites.price.record={0}/one", "json={0}/one"],
            "json={0}/one would replace suites.price.record",
        ),
        (["suite=data", "scratch={0}/none"], "scratch={0}/none is no folder: give one that exists"),
        (["suite=data", "table={0}/file/one"], "table={0}/file/one cannot be written"),
        (["suite=train_step", "suites.train_step.text.mean=500"], "mean=500 tokens are more than longest=120"),
        (
            ["suite=train_step", "suites.train_step.cpu.two_blocks.resolution=250"],
            "suites.train_step: cpu.two_blocks.resolution: input should be a multiple of 16, not 250",
        ),
        (["rounds=1"], "You must specify 'suite'"),
    ],
)
def test_each_of_7_mistakes_is_one_sentence_before_anything_is_measured(tmp_path: Path, asked: list[str], told: str):
    (tmp_path / "file").touch()
    command = [sys.executable, "tools/benchmark.py", *(word.format(tmp_path) for word in asked)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: ")
    assert told.format(tmp_path) in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_suites_that_fail_are_told_of_after_the_others_and_what_was_measured_is_kept(monkeypatch, tmp_path):
    class Model:
        pass

    made: list[weakref.ref[Model]] = []

    def measure(*_: object) -> Iterator[Figure]:
        gc.collect()
        assert all(found() is None for found in made)  # of a suite that failed nothing is in memory
        model = Model()
        made.append(weakref.ref(model))
        yield Figure("price", "one", 1.0, "s")
        raise RuntimeError("the device is gone")

    for suite in (price, tiny):
        monkeypatch.setattr(suite, "measure", measure)
    monkeypatch.setattr(data, "measure", lambda *_: iter([Figure("data", "two", 2.0, "s")]))
    kept: list[list[str]] = []
    said: list[str] = []
    told = {"rounds": 1, "seed": 0, "scratch": tmp_path, "say": said.append}
    told["keep"] = lambda figures: kept.append([figure.name for figure in figures])
    chosen = {name: composed(f"suite={name}")["suites"][name] for name in ("price", "data", "tiny")}
    with pytest.raises(ValueError, match=r"2 of 3 suites failed: price: RuntimeError\('the device is gone'\); tiny: "):
        run_suites(chosen, **told)
    assert kept == [["one"], ["one", "two"], ["one", "two", "one"]]
    assert said == [
        *("suite price", "suite price failed: RuntimeError: the device is gone", "suite data", "suite tiny"),
        "suite tiny failed: RuntimeError: the device is gone",
    ]
    said.clear()
    with pytest.raises(RuntimeError, match="the device is gone"):
        run_suites({"price": chosen["price"]}, **told)
    assert said == ["suite price"]  # alone its error is the last word


@pytest.mark.parametrize("way", ["cause", "context"])
def test_an_error_that_came_of_another_holds_1_suite_s_models_no_longer_either(monkeypatch, tmp_path, way: str):
    class Model:
        pass

    made: list[weakref.ref[Model]] = []

    def build() -> None:
        model = Model()
        made.append(weakref.ref(model))
        raise KeyError("within")

    def measure(*_: object) -> Iterator[Figure]:
        try:
            build()
        except KeyError as error:
            if way == "cause":
                raise RuntimeError("without") from error
            raise RuntimeError("without")  # noqa: B904
        yield Figure("price", "one", 1.0, "s")

    held: list[object] = []
    monkeypatch.setattr(price, "measure", measure)
    monkeypatch.setattr(data, "measure", lambda *_: held.extend(found() for found in made) or iter(()))
    chosen = {name: composed(f"suite={name}")["suites"][name] for name in ("price", "data")}
    with pytest.raises(RuntimeError, match="without"):
        run_suites(chosen, rounds=1, seed=0, scratch=tmp_path, say=lambda _: None)
    assert held == [None]


def test_after_each_of_2_suites_everything_compiled_is_forgotten(monkeypatch, tmp_path):
    order: list[str] = []

    def fails(*_: object) -> Iterator[Figure]:
        order.append("price")
        raise RuntimeError

    monkeypatch.setattr(suites, "forget_compiled", lambda: order.append("forgotten"))
    monkeypatch.setattr(price, "measure", fails)
    monkeypatch.setattr(data, "measure", lambda *_: order.append("data") or iter(()))
    chosen = {name: composed(f"suite={name}")["suites"][name] for name in ("price", "data")}
    with pytest.raises(RuntimeError):
        run_suites(chosen, rounds=1, seed=0, scratch=tmp_path, say=lambda _: None)
    assert order == ["price", "forgotten", "data", "forgotten"]


def test_a_door_whose_suite_fails_leaves_the_record_and_the_table_of_what_it_measured(tmp_path):
    files = [f"json={tmp_path}/some.json", f"table={tmp_path}/some.md"]
    settings = ["suites.price.stages.pixel_dependency.images_per_second=500", "suites.tiny.side=5"]
    command = [sys.executable, ROOT / "tools" / "benchmark.py", "suite=[price,tiny]", "rounds=1"]
    done = subprocess.run(
        [*command, *files, *settings, "suites.tiny.model.patch_size=2"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "input_size=5 must be divisible by patch_size=2" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    names = [figure["name"] for figure in json.loads((tmp_path / "some.json").read_text())["figures"]]
    assert "pixel_dependency: samples" in names
    assert all(name in (tmp_path / "some.md").read_text() and name in done.stdout for name in names)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("suites.price.record=missing.json", r"^suites\.price: record: missing\.json is no record of"),
        ("suites.price.contender=our", r"^suites\.price: contender: "),
        ("suites.buckets.device=cuda", r"^suites\.buckets: device=cuda, and torch finds no such device"),
        ("suites.buckets.cpu.resolution=272", r"^suites\.buckets: cpu\.resolution: .* multiple of 256, not 272"),
        ("+suites.buckets.cpu.targets.graph='<= 2'", r"no figure is called 'graph'; those that may have one: graphs"),
        ("suites.buckets.cpu.targets.graphs='<= nan'", r"'<= nan' is no target: write it as"),
        ("suites.buckets.cpu.targets.graphs='<= abc'", r"'<= abc' is no target: write it as"),
        ("+suites.train_step.compilation.options={nonsense:1}", r"inductor has no option 'nonsense': torch\._inductor"),
        ("suites.train_step.cpu.two_blocks.contenders=[ours,ours]", r"contenders: ours, ours: name each once"),
        ("suites.data.token_lengths=[200]", r"^suites\.data: token_lengths\.0: .* less than or equal to 120, not 200"),
        ("suites.data.feature_samples=8", r"^suites\.data: feature_samples=8 is no batch of 32: give as many or more"),
        ("suites.sample.cpu.two_blocks.steps=1000", r"^suites\.sample: cpu\.two_blocks\.steps: 1000 is more than"),
        ("suites.memory.cpu.low_memory_steps=1000", r"^suites\.memory: cpu\.low_memory_steps: .* less than 1000"),
        ("suites.sample.cpu.two_blocks.encoders.autoencoder=[30,30]", r"autoencoder\.0: .* multiple of 8, not 30"),
    ],
)
def test_each_of_14_mistakes_is_found_before_the_first_suite_begins(tmp_path, setting: str, told: str):
    values = composed("suite=all", setting)["suites"]
    said: list[str] = []
    with pytest.raises(ValueError, match=told):
        run_suites(values, rounds=1, seed=0, scratch=tmp_path, say=said.append)
    assert said == []
