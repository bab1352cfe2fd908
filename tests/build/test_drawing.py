"""Weights to pictures: which null caption and which aspect ratio the model hears."""

import json
import re
import runpy
from pathlib import Path
from typing import Any

import foreign
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from miniature import composed, small
from omegaconf import OmegaConf

from pixart.build.drawing import open_weights
from pixart.build.parts import autoencoder, model, text_encoder
from pixart.build.scoring import score_alignment
from pixart.build.worse import read_worse
from pixart.config import EvaluateConfig, Precision, SampleConfig, parse
from pixart.door import CONFIGS
from pixart.formats import read, write
from pixart.formats.snapshot import NullKind, read_snapshot, write_snapshot

SOURCES: dict[str, Any] = {"precision": None, "text_source": None, "autoencoder_source": None}


def snapshot(
    path: Path, *overrides: str, null_caption: torch.Tensor | None, null_kind: NullKind = "y_embedding"
) -> str:
    """A small stage 3 that was never trained, as it lies in a file."""
    config = small(3, path.parent, "text_encoder.max_tokens=40", *overrides)
    drawn = model(config)
    # Zero as it is made, it would predict nothing whatever it is told.
    torch.nn.init.normal_(drawn.final_layer.linear.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    encoder = text_encoder(config)
    assert encoder is not None
    write_snapshot(
        path,
        drawn.state_dict(),
        model_config=drawn.config,
        run_config=json.loads(config.model_dump_json()),
        stamps={"text_encoder": encoder.fingerprint, "autoencoder": autoencoder(config).fingerprint},
        step=0,
        samples_seen=0,
        null_caption=null_caption,
        null_kind=null_kind,
    )
    return str(path)


def told(pipeline: Any) -> list[Any]:
    """What the model hears in one step of a guided picture."""
    heard: list[Any] = []
    prepare = pipeline.model.prepare
    pipeline.model.prepare = lambda *asked: heard.append(asked[0]) or prepare(*asked)
    pipeline(
        prompts=["a red circle"], seeds=[0], sizes=[(40, 56)], guidance_scale=2.0, num_inference_steps=1,
        guidance_channels="all", scheduler_name="dpm_solver", batch_size=1,
    )  # fmt: skip
    return heard


def test_the_official_null_caption_is_that_of_the_weights_under_the_prompts_mask(tmp_path: Path) -> None:
    rows = torch.randn(40, text_dim(tmp_path), generator=torch.Generator().manual_seed(0))
    weights = snapshot(tmp_path / "a.safetensors", null_caption=rows)
    pipeline = open_weights(weights, **SOURCES).pipeline  # what they carry is what they are told
    (cond,) = told(pipeline)
    length = int(cond.mask[0].sum())
    assert cond.mask.sum(1).tolist() == [length, length]
    torch.testing.assert_close(cond.tokens[1, :length], rows[:length])
    (cond,) = told(open_weights(weights, **SOURCES, null_caption="empty")[0])
    assert cond.mask[1].sum() < length  # the empty caption's own


def test_the_aspect_ratio_is_told_as_in_training_unless_asked_otherwise(tmp_path: Path) -> None:
    bucket = snapshot(tmp_path / "b.safetensors", "data.aspect_ratio=bucket", null_caption=None)
    (cond,) = told(open_weights(bucket, **SOURCES)[0])
    torch.testing.assert_close(cond.aspect_ratio, torch.tensor([[0.71]] * 2))
    (cond,) = told(open_weights(bucket, **SOURCES, told_aspect_ratio="exact")[0])
    torch.testing.assert_close(cond.aspect_ratio, torch.tensor([[40 / 56]] * 2))


def test_the_official_null_caption_is_not_taken_from_weights_that_carry_0_rows_or_the_empty_captions(
    tmp_path: Path,
) -> None:
    states = torch.zeros(2, text_dim(tmp_path))
    for number, (null_caption, kind) in enumerate([(None, "y_embedding"), (states, "empty")]):
        path = snapshot(tmp_path / f"{number}.safetensors", null_caption=null_caption, null_kind=kind)
        with pytest.raises(ValueError, match=rf"null_caption=y_embedding: .*{number}\.safetensors does not carry it"):
            open_weights(path, **SOURCES, null_caption="y_embedding")


def test_the_sampling_door_takes_every_official_behaviour_by_name_and_none_by_default() -> None:
    def asked(*overrides: str) -> SampleConfig:
        with initialize_config_dir(version_base=None, config_dir=str(CONFIGS)):
            composed = compose("sample", overrides=["weights=w", "prompts=[a]", *overrides])
        values = OmegaConf.to_container(composed, resolve=True)
        assert isinstance(values, dict)
        values.pop("hydra", None)
        return parse({str(key): value for key, value in values.items()}, SampleConfig)

    ours = asked()
    assert (ours.scheduler, ours.null_caption, ours.null_mask, ours.binning) == (None, None, None, "none")
    official = ("null_caption=y_embedding", "null_mask=prompt", "binning=official", "told_aspect_ratio=bucket")
    for scheduler in ("dpm_solver_official", "iddpm", "sa_solver"):
        assert asked(f"scheduler={scheduler}", "guidance_channels=three", *official).scheduler == scheduler
    with pytest.raises(ValueError, match="null_mask"):
        asked("null_mask=all")


def rewritten(path: str, change: Any) -> str:
    """The snapshot with another configuration of its run."""
    kept = read_snapshot(path)
    config = json.loads(json.dumps(kept.run_config))
    change(config)
    identity = {"model_config": kept.model_config, "stamps": kept.stamps, "step": 0, "samples_seen": 0}
    write_snapshot(path, kept.tensors, run_config=config, null_caption=kept.null_caption, **identity)
    return path


def drawn(weights: str) -> Any:
    opened = open_weights(weights, **SOURCES)
    (picture,) = opened.pipeline(
        prompts=["a red circle"], seeds=[0], sizes=[opened.sizes[0]], guidance_channels="all", batch_size=1,
        **opened.habits._asdict(),
    )  # fmt: skip
    return picture


@pytest.mark.parametrize("objective", ["flow", "ddpm"])
def test_a_snapshot_of_an_earlier_or_later_version_draws_the_same_picture_to_the_bit(
    tmp_path: Path, objective: str
) -> None:
    weights = snapshot(tmp_path / "a.safetensors", f"objective={objective}", null_caption=None)
    expected = drawn(weights)

    def another_version(config: dict[str, Any]) -> None:
        """Without what only training asks for, and with keys that nobody knows yet."""
        for key in ("model", "optimizer", "ema", "tracker", "steps", "reparameterise", "dollars_per_device_hour"):
            del config[key]
        for section, key in [("objective", "time_sampling"), ("data", "caption_choice"), ("sampling", "labels")]:
            del config[section][key]
        for section in ("objective", "data", "text_encoder", "autoencoder", "sampling"):
            config[section]["not_yet_known"] = 3
        config["neither"] = {"this": 1}

    assert np.array_equal(drawn(rewritten(weights, another_version)), expected)


def test_another_autoencoder_than_that_of_the_run_is_told_to_be_the_wrong_one(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    AutoencoderKL(block_out_channels=[8], norm_num_groups=4, latent_channels=4).save_pretrained(tmp_path / "vae")
    weights = snapshot(tmp_path / "a.safetensors", null_caption=None)
    with pytest.raises(ValueError, match=r"has 4 and 1: give the one that the weights were trained with"):
        open_weights(weights, **SOURCES | {"autoencoder_source": str(tmp_path / "vae")})


def test_what_drawing_cannot_do_without_is_named_with_its_file(tmp_path: Path) -> None:
    weights = snapshot(tmp_path / "a.safetensors", null_caption=None)

    def too_little(config: dict[str, Any]) -> None:
        del config["data"]["buckets"], config["resolution"]

    with pytest.raises(ValueError, match=r"a\.safetensors: .* has no usable resolution, data\.buckets; ") as caught:
        drawn(rewritten(weights, too_little))
    assert "\n" not in str(caught.value)


def text_dim(tmp_path: Path) -> int:
    section = small(3, tmp_path).text_encoder
    assert section is not None
    return section.dim


def test_pictures_are_scored_at_the_sizes_asked_for_by_name_and_else_at_those_of_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pixart.metrics.alignment as alignment

    seen: list[set[tuple[int, ...]]] = []
    real = alignment.score
    monkeypatch.setattr(
        alignment, "score", lambda images, targets: seen.append({i.shape[:2] for i in images}) or real(images, targets)
    )
    weights = snapshot(tmp_path / "a.safetensors", null_caption=None)
    asked = {
        **{"weights": {"a": weights, "b": weights}, "json": None, "images": None, "per_task": 1, "seed": 0},
        **{"scheduler": None, "num_inference_steps": 1, "guidance_scale": 1.0, "batch_size": 8, "precision": None},
        **{"started": None, "compile": False, "sizes": {"b": [[24, 48]]}, "guidance_interval": None},
        **{"autoguidance": None, "autoguidance_scale": None},
    }
    config = parse(asked, EvaluateConfig)
    for name in ("a", "b"):
        assert score_alignment(name, config, None)["interval"][0] >= 0
    assert seen == [{(40, 40), (32, 48), (48, 32)}, {(24, 48)}]
    with pytest.raises(ValueError, match="sizes: there are no weights named 'c', only a, b"):
        parse({**asked, "sizes": {"c": [[24, 48]]}}, EvaluateConfig)
    with pytest.raises(ValueError, match="autoguidance: there are no weights named 'c', only a, b"):
        parse({**asked, "autoguidance": {"c": weights}}, EvaluateConfig)


def test_the_interval_of_a_run_is_the_habit_of_whoever_uses_its_weights(tmp_path: Path) -> None:
    weights = snapshot(tmp_path / "a.safetensors", "sampling.guidance_interval=[0.1,0.7]", null_caption=None)
    habits = open_weights(weights, **SOURCES).habits
    assert habits.guidance_interval == (0.1, 0.7)
    asked = parse({**composed(name="evaluate"), "weights": weights, "guidance_interval": [0, 1]}, EvaluateConfig)
    assert habits.unless(asked).guidance_interval == (0, 1)


def test_a_worse_model_may_be_smaller_and_its_own_self_leads_nowhere(tmp_path: Path) -> None:
    weights = snapshot(tmp_path / "a.safetensors", null_caption=None)
    smaller = snapshot(tmp_path / "b.safetensors", "model.depth=1", null_caption=None)

    def picture(autoguidance: str | None, scale: float) -> np.ndarray:
        (image,) = open_weights(weights, **SOURCES, autoguidance=autoguidance).pipeline(
            prompts=["a red circle"], seeds=[0], sizes=[(40, 40)], guidance_scale=1.0, num_inference_steps=2,
            guidance_channels="all", scheduler_name="dpm_solver", batch_size=1, autoguidance_scale=scale,
        )  # fmt: skip
        return image

    alone = picture(None, 1.0)
    assert np.array_equal(picture(smaller, 1.0), alone)
    assert np.array_equal(picture(weights, 3.0), alone)
    assert not np.array_equal(picture(smaller, 3.0), alone)
    with pytest.raises(ValueError, match="autoguidance_scale=3 needs a worse model"):
        picture(None, 3.0)


@pytest.mark.parametrize("adaln", ["single", "per_block"])
@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_weights_lie_in_half_precision_and_give_latents_equal_to_the_bit_to_those_rounded_at_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision, dtype: torch.dtype, adaln: str
) -> None:
    weights = snapshot(tmp_path / "a.safetensors", f"model.adaln={adaln}", null_caption=None)
    worse = snapshot(tmp_path / "b.safetensors", "model.depth=1", null_caption=None)

    def latents() -> tuple[torch.Tensor, set[torch.dtype]]:
        pipeline = open_weights(weights, **{**SOURCES, "precision": precision}, autoguidance=worse).pipeline
        seen, decode = [], pipeline.autoencoder.decode
        pipeline.autoencoder.decode = lambda x: seen.append(x) or decode(x)  # type: ignore[method-assign]
        pipeline(
            prompts=["a red circle", "a ring"], seeds=[0, 1], sizes=[(40, 40)] * 2, guidance_scale=3.0,
            num_inference_steps=3, guidance_channels="all", scheduler_name="dpm_solver", batch_size=2,
            autoguidance_scale=2.0,
        )  # fmt: skip
        assert pipeline.worse is not None
        models = (pipeline.model, pipeline.worse.model)
        return torch.cat(seen), {x.dtype for each in models for x in each.blocks[0].mlp.parameters()}

    found, kept = latents()
    monkeypatch.setattr("pixart.build.drawing.halve", lambda *_: None)
    expected, rounded = latents()
    assert (kept, rounded) == ({dtype}, {torch.float32})
    assert torch.equal(found, expected)
    assert found.isfinite().all()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("model.size_conditioning=false",), "has size_conditioning False where .* has True: give an earlier snapshot"),
        (("objective=velocity",), "has objective {'kind': 'gaussian'.* has {'kind': 'flow'"),
        (("text_encoder.max_tokens=41",), "was trained with other encoders than"),
    ],
)
def test_a_worse_model_that_is_told_or_predicts_something_else_is_refused(
    tmp_path: Path, overrides: tuple[str, ...], words: str
) -> None:
    weights = snapshot(tmp_path / "a.safetensors", null_caption=None)
    other = snapshot(tmp_path / "b.safetensors", *overrides, null_caption=None)
    with pytest.raises(ValueError, match=f"^autoguidance={re.escape(other)} {words}"):
        open_weights(weights, **SOURCES, autoguidance=other)


def test_objectives_are_compared_with_weights_of_elsewhere_too(tmp_path: Path) -> None:
    shapes = foreign.pixart_shapes(dim=1152, depth=1, side=4, text_dim=64)
    torch.save(foreign.fill(shapes, std=0.02), tmp_path / "a.pth")
    write(read(tmp_path / "a.pth"), tmp_path / "a.safetensors", to="snapshot")
    found = read(tmp_path / "a.safetensors")
    read_worse(str(tmp_path / "a.pth"), "a", found)
    assert found.snapshot is not None
    told = {"objective": {"kind": "flow", "shift": 1.0}}
    flow = found._replace(snapshot=found.snapshot._replace(run_config=told))
    with pytest.raises(ValueError, match=r"has objective {'kind': 'gaussian'.* where b has {'kind': 'flow'"):
        read_worse(str(tmp_path / "a.pth"), "b", flow)


def test_the_options_on_record_are_those_that_were_given_and_matter() -> None:
    door = runpy.run_path(str(CONFIGS.parent / "sample.py"))
    asked = {**composed(name="sample"), "weights": "w", "prompts": ["a"]}
    assert door["options_of"](parse(asked, SampleConfig), None) == {}
    told = {"autoguidance": "v", "autoguidance_scale": 0.0, "guidance_every": 2}
    assert door["options_of"](parse({**asked, **told}, SampleConfig), (0, 0.7)) == {
        **told,
        "guidance_interval": (0, 0.7),
    }
    assert door["options_of"](parse({**asked, "autoguidance": "v"}, SampleConfig), None)["autoguidance_scale"] == 2
    nobody = {"weights": "w", "autoguidance": {}, "autoguidance_scale": 3.0}  # as the quickstart where there are none
    assert parse({**composed(name="evaluate"), **nobody}, EvaluateConfig).autoguidance_scale_for(None) == 1
    with pytest.raises(
        ValueError, match="autoguidance_scale=3 leads away from nothing: give autoguidance=…, the weights"
    ):
        parse({**asked, "autoguidance_scale": 3.0}, SampleConfig)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["height=40"], r"^height is given without width: give both, or aspect_ratio=… alone$"),
        (["width=40"], r"^width is given without height: give both"),
        (["guidance_interval=[0.8,0.2]"], r"^guidance_interval: \[0.8, 0.2\] does not rise"),
        (["labels=[1]"], r"^give prompts=<file or list> .* or labels=.* not both$"),
        (["prompts=[]"], r"^prompts=\[\] asks for nothing: give at least one$"),
        (["prompts=null", "labels=[]"], r"^labels=\[\] asks for nothing: give at least one$"),
        (["prompts=null", "labels=5"], r"^labels: input should be a list, not 5$"),
        (["height=100000", "width=256"], r"^height: input should be less than or equal to 16384, not 100000$"),
        (["images_per_prompt=1000000"], r"^images_per_prompt: input should be less than or equal to 65536"),
        (["decode_batch=100000000000000000000"], r"^decode_batch: input should be less than or equal to 65536"),
    ],
)
def test_each_of_10_contradictions_is_found_before_weights_are_read(asked: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse(composed("weights=none", "prompts=[a]", *asked, name="sample"), SampleConfig)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (Path.mkdir, "that is a folder, give a file in it; for a prompt itself"),
        (lambda _: None, "there is no such file; for a prompt itself"),
        (lambda path: path.write_text(" \n\n"), "has no prompt in it: write one a line"),
        (lambda path: path.write_bytes(b"\xff\xfe"), r"is not UTF-8 \(byte 0\): save it as UTF-8"),
    ],
)
def test_4_things_that_are_no_file_of_prompts_are_named(tmp_path: Path, made: Any, told: str) -> None:
    made(tmp_path / "prompts")
    door = runpy.run_path(str(CONFIGS.parent / "sample.py"))
    with pytest.raises(ValueError, match=f"^prompts=.*/prompts:? {told}"):
        door["read_prompts"](str(tmp_path / "prompts"))


def test_a_worse_model_that_is_not_there_is_named_with_its_key(tmp_path: Path) -> None:
    weights = snapshot(tmp_path / "a.safetensors", null_caption=None)
    with pytest.raises(ValueError, match=r"^autoguidance: .*none: there is no such file or run directory"):
        open_weights(weights, **SOURCES, autoguidance=str(tmp_path / "none"))
