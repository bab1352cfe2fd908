"""Weights of other people as the start of a run, and as what to draw with."""

import re
from pathlib import Path
from typing import Any

import foreign
import numpy as np
import pytest
import torch
from miniature import Silent, small

from pixart.build.drawing import open_weights
from pixart.build.training import run_training
from pixart.config import default_run_dir
from pixart.formats import read, write
from pixart.formats.snapshot import find_snapshot, read_snapshot

BRIEF = [
    *("model.num_heads=4", "steps=1", "log_every=1", "validate_every=0", "sample_every=0", "snapshot_every=1"),
    *("checkpoint_every=1", "data.validation_samples=0"),
]
DOCS = Path(__file__).resolve().parents[2] / "docs"
LICENCE = "CC-BY-NC-4.0"


def run(stage: int, run_dir: Path, *overrides: str) -> str:
    display = Silent()
    run_training(small(stage, run_dir, *BRIEF, *overrides), lambda _: display)
    return "\n".join(display.said)


@pytest.fixture(scope="module")
def dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DiT of 24 px, while the stages are of 32 and 48."""
    path = tmp_path_factory.mktemp("dit") / "dit.pt"
    shapes = foreign.dit_shapes(dim=48, depth=2, side=6, classes=40, patch=4, channels=3)
    torch.save({"ema": foreign.fill(shapes), "opt": {}}, path)
    return path


def test_stage_1_starts_from_a_dit_and_all_that_descends_from_it_carries_its_licence(dit: Path, tmp_path: Path) -> None:
    said = run(1, tmp_path / "1", f"init_from={dit}")
    assert f"DiT file, ema, licence {LICENCE}" in said
    assert "6 x 6 tokens, interpolation 1 -> 8 x 8 tokens, interpolation 1" in said
    assert "y_embedder.embedding_table.weight" in said
    run(1, tmp_path / "1", f"init_from={dit}", "steps=2")  # resumed
    run(2, tmp_path / "2", f"init_from={tmp_path / '1'}")
    run(3, tmp_path / "3", f"init_from={tmp_path / '2'}")
    found = [find_snapshot(tmp_path / stage) for stage in "123"]
    assert [path.stem[-1] for path in found] == ["2", "1", "1"]
    assert [read_snapshot(path).licence for path in found] == [LICENCE] * 3
    run(2, tmp_path / "free")
    assert read_snapshot(find_snapshot(tmp_path / "free")).licence is None


def test_stage_2_starts_from_a_dit_without_its_classes(dit: Path, tmp_path: Path) -> None:
    said = run(2, tmp_path / "2", f"init_from={dit}", "reparameterise=mean")
    assert "the class is dropped" in said
    assert "mean of all blocks'" in said
    weights = read(tmp_path / "2")
    assert weights.licence == LICENCE
    assert weights.model_config["adaln"] == "single"


def test_a_per_block_stage_1_becomes_a_stage_2_with_1_shared_map_or_stays_as_it_is(tmp_path: Path) -> None:
    run(1, tmp_path / "1", "model.adaln=per_block")
    assert "that of block 0" in run(2, tmp_path / "single", f"init_from={tmp_path / '1'}")
    assert "folded" in run(2, tmp_path / "both", f"init_from={tmp_path / '1'}", "model.adaln=per_block")


def test_the_way_to_re_parameterise_makes_another_run_only_where_there_is_a_start(tmp_path: Path) -> None:
    def directory(*overrides: str) -> str:
        return default_run_dir(small(2, tmp_path, *overrides))

    start = "init_from=a.pt"
    assert directory(start) != directory(start, "reparameterise=fresh")
    assert directory() == directory("reparameterise=fresh")


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("autoencoder")
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    AutoencoderKL(**blocks, block_out_channels=[8, 8], norm_num_groups=4, latent_channels=4).save_pretrained(folder)
    return str(folder)


def drawn(weights: str, **sources: Any) -> np.ndarray:
    opened = open_weights(weights, precision="fp32", **{"text_source": None, "autoencoder_source": None, **sources})
    pipeline, sizes = opened.pipeline, opened.sizes
    labelled = pipeline.text_encoder is None
    (picture,) = pipeline(
        prompts=None if labelled else ["a red circle"], labels=[3] if labelled else None, seeds=[0], sizes=[sizes[0]],
        guidance_scale=2.0, num_inference_steps=2, guidance_channels="all", scheduler_name="dpm_solver", batch_size=1,
    )  # fmt: skip
    return picture


def test_the_same_weights_draw_the_same_picture_from_a_pth_a_snapshot_of_it_and_a_pipeline(
    autoencoder: str, tmp_path: Path
) -> None:
    shapes = foreign.pixart_shapes(dim=1152, depth=1, side=4, text_dim=64, rows=120)
    torch.save({"state_dict": foreign.fill(shapes, std=0.02)}, tmp_path / "a.pth")
    encoders = {"text_source": "shapes-t5", "autoencoder_source": autoencoder}
    weights = read(tmp_path / "a.pth")
    write(weights, tmp_path / "a.safetensors", to="snapshot")
    write(weights, tmp_path / "a", to="diffusers-pipeline", text_encoder="shapes-t5", autoencoder=autoencoder)
    empty = {**encoders, "null_caption": "empty"}
    picture = drawn(str(tmp_path / "a.pth"), **empty)
    assert picture.shape == (16, 16, 3)
    assert picture.std() > 1
    assert np.array_equal(drawn(str(tmp_path / "a.safetensors"), **empty), picture)
    assert np.array_equal(drawn(str(tmp_path / "a")), picture)
    official = drawn(str(tmp_path / "a.pth"), **encoders)
    assert not np.array_equal(official, picture)
    assert np.array_equal(drawn(str(tmp_path / "a.safetensors"), **encoders), official)


def test_a_pipeline_with_an_lcm_scheduler_draws_in_4_steps_without_guidance_and_keeps_it(
    autoencoder: str, tmp_path: Path
) -> None:
    from diffusers import LCMScheduler

    torch.save(
        foreign.fill(foreign.pixart_shapes(dim=1152, depth=1, side=4, text_dim=64), std=0.02), tmp_path / "a.pth"
    )
    encoders = {"text_encoder": "shapes-t5", "autoencoder": autoencoder}
    write(read(tmp_path / "a.pth"), tmp_path / "a", to="diffusers-pipeline", **encoders)
    opened = open_weights(str(tmp_path / "a"), precision="fp32", text_source=None, autoencoder_source=None)
    assert opened.habits == ("dpm_solver", 20, 4.5, None)
    linear = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}
    LCMScheduler(**linear, timestep_scaling=9.0).save_pretrained(tmp_path / "a" / "scheduler")
    write(read(tmp_path / "a"), tmp_path / "b", to="diffusers-pipeline")
    assert '"timestep_scaling": 9.0' in (tmp_path / "b" / "scheduler" / "scheduler_config.json").read_text()
    assert "LCMScheduler" in (tmp_path / "b" / "model_index.json").read_text()
    opened = open_weights(str(tmp_path / "b"), precision="fp32", text_source=None, autoencoder_source=None)
    assert opened.habits == ("lcm", 4, 1.0, None)
    write(read(tmp_path / "b"), tmp_path / "c.safetensors", to="snapshot")
    sources = {"text_source": "shapes-t5", "autoencoder_source": autoencoder}
    assert open_weights(str(tmp_path / "c.safetensors"), precision="fp32", **sources).habits == opened.habits
    write(read(tmp_path / "c.safetensors"), tmp_path / "d", to="diffusers-pipeline", **encoders)
    assert "LCMScheduler" in (tmp_path / "d" / "model_index.json").read_text()
    (picture,) = opened.pipeline(
        prompts=["a red circle"], seeds=[0], sizes=[opened.sizes[0]], guidance_channels="all", batch_size=1,
        **opened.habits._asdict(),
    )  # fmt: skip
    assert picture.std() > 1


def test_the_python_of_docs_weights_md_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shapes = foreign.pixart_shapes(dim=1152, depth=1, side=32, text_dim=64)
    torch.save(foreign.fill(shapes, std=0.02), "PixArt-XL-2-512x512.pth")
    write(read("PixArt-XL-2-512x512.pth"), "step_00100000.safetensors", to="snapshot")
    write(read("PixArt-XL-2-512x512.pth"), "folder", to="diffusers")
    run(2, tmp_path / "anything")
    printed = (DOCS / "weights.md").read_text(encoding="utf-8").replace("DeepFloyd/t5-v1_1-xxl", "shapes-t5")
    names: dict[str, Any] = {}
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for block in re.findall(r"```python\n(.*?)```", printed, re.DOTALL):
        exec(block, names)
    assert names["eps_and_variance"].shape == (2, 8, 8, 8)
    assert len(names["rows"]) == len(names["weights"].tensors) + 2
    (picture,) = names["pictures"]
    assert picture.shape == (*names["sizes"][0], 3)
    assert picture.dtype == np.uint8
    assert (tmp_path / "circle.png").stat().st_size > 100
    (made,) = re.findall(r"`(Pipeline\(.*?\))`", printed)
    exec(f"from pixart.sampling import Pipeline\nmade = {made}", names)
    again = names["made"](
        prompts=["a red circle"], seeds=[0], sizes=[names["sizes"][0]], guidance_channels="all", batch_size=1,
        **names["habits"]._asdict(),
    )  # fmt: skip
    assert np.array_equal(again[0], picture)


def test_a_pipeline_of_velocity_over_a_cosine_draws_by_it_and_so_does_a_snapshot_of_it(
    autoencoder: str, tmp_path: Path
) -> None:
    from diffusers import DPMSolverMultistepScheduler

    content = foreign.fill(foreign.pixart_shapes(dim=1152, depth=1, side=4, text_dim=64), std=0.02)
    torch.save(content, tmp_path / "a.pth")
    write(read(tmp_path / "a.pth"), tmp_path / "a", to="diffusers-pipeline", text_encoder="shapes-t5",
          autoencoder=autoencoder)  # fmt: skip
    noise = drawn(str(tmp_path / "a"))
    changed = DPMSolverMultistepScheduler(prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2")
    changed.save_pretrained(tmp_path / "a" / "scheduler")
    write(read(tmp_path / "a"), tmp_path / "b.safetensors", to="snapshot")
    sources = {"text_source": "shapes-t5", "autoencoder_source": autoencoder}
    velocity = drawn(str(tmp_path / "a"))
    assert not np.array_equal(velocity, noise)
    assert np.array_equal(drawn(str(tmp_path / "b.safetensors"), **sources), velocity)


def test_an_autoencoder_of_other_channels_and_a_number_that_drawing_cannot_be_given_name_the_mend(
    autoencoder: str, tmp_path: Path
) -> None:
    shapes = foreign.pixart_shapes(dim=1152, depth=1, side=4, text_dim=64, channels=3)
    torch.save(foreign.fill(shapes), tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"has latents of 4 channels and .*a\.pth takes 3: give the one"):
        drawn(str(tmp_path / "a.pth"), text_source="shapes-t5", autoencoder_source=autoencoder)
    torch.save(foreign.fill(foreign.pixart_shapes(dim=48, depth=1, side=4, text_dim=64)), tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"give num_heads=; .* python tools/convert\.py source=.*b\.pth to=snapshot"):
        drawn(str(tmp_path / "b.pth"))


def test_foreign_weights_ask_for_each_of_their_2_encoders(autoencoder: str, tmp_path: Path) -> None:
    torch.save(foreign.fill(foreign.pixart_shapes(dim=1152, depth=1, side=4, text_dim=64)), tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"give autoencoder=<folder or hub name> and text_encoder=<"):
        drawn(str(tmp_path / "a.pth"))
    with pytest.raises(ValueError, match=r"its encoders: give text_encoder=<folder or hub name>$"):
        drawn(str(tmp_path / "a.pth"), autoencoder_source=autoencoder)


def test_a_dit_draws_its_classes_with_an_autoencoder_alone(autoencoder: str, tmp_path: Path) -> None:
    torch.save(foreign.fill(foreign.dit_shapes(dim=1152, depth=1, side=4, classes=10), std=0.02), tmp_path / "a.pt")
    assert drawn(str(tmp_path / "a.pt"), autoencoder_source=autoencoder).shape == (16, 16, 3)
