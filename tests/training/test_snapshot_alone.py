"""A snapshot is enough: one file, moved away from a run that is gone, draws and says where it comes from."""

import json
import shutil
from pathlib import Path

from hydra import compose, initialize_config_dir
from miniature import Silent, small
from omegaconf import OmegaConf
from safetensors import safe_open

from pixart.build.training import run_training
from pixart.door import CONFIGS
from pixart.formats.snapshot import find_snapshot, read_snapshot, write_snapshot
from sample import sample

BARE = ("validate_every=0", "sample_every=0", "checkpoint_every=0", "steps=2", "data.workers=0")


def train(stage: int, run_dir: Path, *overrides: str) -> Path:
    run_training(small(stage, run_dir, *BARE, *overrides), lambda _: Silent())
    return find_snapshot(run_dir)


def test_1_file_is_enough_to_draw_from_and_names_its_licence_stamps_config_and_samples(tmp_path: Path) -> None:
    first = read_snapshot(train(1, tmp_path / "runs" / "1"))
    start, moved = tmp_path / "runs" / "start.safetensors", tmp_path / "moved" / "weights.safetensors"
    told_of = {key: value for key, value in first._asdict().items() if key in ("model_config", "run_config", "stamps")}
    write_snapshot(start, first.tensors, **told_of, step=2, samples_seen=16, licence="CC-BY-NC-4.0")
    moved.parent.mkdir()
    train(2, tmp_path / "runs" / "2", f"init_from={start}").rename(moved)
    shutil.rmtree(tmp_path / "runs")

    with safe_open(moved, framework="pt") as file:
        told = file.metadata()
    assert told["licence"] == "CC-BY-NC-4.0"
    assert (told["step"], told["samples_seen"]) == ("2", "16")
    assert json.loads(told["config"])["global_batch"] == 8
    assert json.loads(told["model"])["dim"] == 48
    assert all(json.loads(told["stamps"])[name] for name in ("text_encoder", "autoencoder"))

    asked = [f"weights={moved}", 'prompts=["a red circle","a blue ring"]', f"out={tmp_path / 'out'}"]
    with initialize_config_dir(version_base=None, config_dir=str(CONFIGS)):
        values = OmegaConf.to_container(compose("sample", overrides=[*asked, "num_inference_steps=2"]), resolve=True)
    assert isinstance(values, dict)
    sample({str(key): value for key, value in values.items()})
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["00000.png", "00001.png", "grid.png"]
