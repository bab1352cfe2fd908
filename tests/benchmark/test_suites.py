"""The suite of data in miniature: everything it measures is measured on equal content."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pixart.benchmark.latents import Made, _Official, write_official, write_shards_of
from pixart.benchmark.pictures import examples_of
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
