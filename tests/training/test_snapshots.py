"""The snapshots of a run, one of each of its averages."""

from pathlib import Path

import pytest
import torch
from miniature import Silent, small
from torch import Tensor

from pixart.build.drawing import open_weights
from pixart.build.training import run_training
from pixart.formats import read, write
from pixart.formats.snapshot import Snapshot, find_snapshot, read_snapshot

FOLDERS = {"": "decay_0.2", "decay_0.9": "decay_0.9", "power_0.05": "power_0.05", "power_0.1": "power_0.1"}
RATES = ("ema.decay=0.2", "ema.others=[0.9]", "ema.power=[0.05,0.1]")
BARE = ("validate_every=0", "sample_every=0", "data.workers=0", "optimizer.warmup_steps=1")


def train(run_dir: Path, *overrides: str) -> dict[str, Snapshot]:
    """The last snapshots of a run of 6 steps, by folder."""
    run_training(small(1, run_dir, *BARE, *RATES, "steps=6", "snapshot_every=3", *overrides), lambda _: Silent())
    return {folder: read_snapshot(run_dir / "snapshots" / folder / "step_00000006.safetensors") for folder in FOLDERS}


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Norm of the difference in units of the first one's."""
    parts = [torch.cat([tensors[name].flatten() for name in sorted(one)]) for tensors in (one, other)]
    return float((parts[0] - parts[1]).norm() / parts[0].norm())


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Snapshot]]:
    run_dir = tmp_path_factory.mktemp("snapshots") / "straight"
    return run_dir, train(run_dir)


def test_each_of_4_averages_has_a_folder_and_says_what_it_is(straight: tuple[Path, dict[str, Snapshot]]) -> None:
    run_dir, held = straight
    folder = run_dir / "snapshots"
    found = sorted(str(path.relative_to(folder).parent) for path in folder.rglob("*.safetensors"))
    assert found == sorted(2 * [folder or "." for folder in FOLDERS])
    assert held[""].profile == {"kind": "exponential", "decay": 0.2, "warmup": True}
    assert held["power_0.05"].profile == {"kind": "power", "sigma_rel": 0.05}
    assert len({snapshot.run for snapshot in held.values()}) == 1
    for one in held.values():
        assert (one.step, one.samples_seen, one.run_config["seed"]) == (6, 48, 43)
        assert one.stamps == held[""].stamps
    assert min(apart(held[""].tensors, held[folder].tensors) for folder in list(FOLDERS)[1:]) > 3e-4


def test_a_run_means_its_primary_snapshot_and_a_file_of_another_average_draws_as_well(
    straight: tuple[Path, dict[str, Snapshot]],
) -> None:
    run_dir, held = straight
    assert find_snapshot(run_dir) == run_dir / "snapshots" / "step_00000006.safetensors"
    file = run_dir / "snapshots" / "power_0.1" / "step_00000006.safetensors"
    model = open_weights(str(file), precision="fp32", text_source=None, autoencoder_source=None).pipeline.model
    assert isinstance(model, torch.nn.Module)
    assert apart(held["power_0.1"].tensors, dict(model.state_dict())) == 0


def test_a_converted_snapshot_still_says_what_it_is(straight: tuple[Path, dict[str, Snapshot]], tmp_path: Path) -> None:
    write(read(straight[0] / "snapshots" / "power_0.1" / "step_00000003.safetensors"), tmp_path / "a", to="snapshot")
    again = read_snapshot(tmp_path / "a")
    assert (again.profile, again.run) == ({"kind": "power", "sigma_rel": 0.1}, straight[1]["power_0.1"].run)


def test_3_steps_a_stop_and_3_more_give_the_snapshots_of_6_steps_to_the_bit(
    straight: tuple[Path, dict[str, Snapshot]], tmp_path: Path
) -> None:
    run_training(small(1, tmp_path, *BARE, *RATES, "steps=3", "snapshot_every=0"), lambda _: Silent())
    for folder, snapshot in train(tmp_path).items():
        assert apart(straight[1][folder].tensors, snapshot.tensors) == 0
        assert snapshot.run == straight[1][folder].run


def test_micro_batches_of_8_and_of_4_give_the_same_averages(
    straight: tuple[Path, dict[str, Snapshot]], tmp_path: Path
) -> None:
    for folder, snapshot in train(tmp_path, "micro_batch=8", "checkpoint_every=0").items():
        assert apart(straight[1][folder].tensors, snapshot.tensors) < 5e-5  # Adam enlarges what rounding differs by
        assert snapshot.run == straight[1][folder].run
