"""Every configuration that a user can choose composes and validates; every mistake is one sentence."""

import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from miniature import composed

from pixart.config import Config, EvaluateConfig, binding, default_run_dir, parse
from pixart.door import one_sentence, quote_stage

ROOT = Path(__file__).resolve().parents[1]


def parsed(*overrides: str) -> Config:
    return parse(composed(*overrides), Config)


@pytest.mark.parametrize(("stage", "scale"), list(itertools.product((1, 2, 3), ("paper", "tiny"))))
def test_every_stage_composes_and_validates_at_every_scale(stage: int, scale: str) -> None:
    config = parsed(f"+stage={stage}", f"scale={scale}", *(["data.root=somewhere"] if scale == "paper" else []))
    assert (config.stage, config.scale) == (stage, scale)
    assert (config.text_encoder is None) == (stage == 1)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["+stage=1"], (256, 300_000, 1024, 128, "square", False, 1.0)),
        (["+stage=2"], (256, 150_000, 11392, 178, "square", False, 1.0)),
        (["+stage=3"], (1024, 16_000, 384, 12, "aspect_ratio", True, 2.0)),
        (["+stage=3", "resolution=512"], (512, 100_000, 2560, 40, "aspect_ratio", True, 1.0)),
        (["+stage=3", "resolution=256"], (256, 90_000, 11392, 178, "square", False, 1.0)),
    ],
)
def test_stages_hold_the_numbers_of_the_papers_table_4(overrides: list[str], expected: tuple[Any, ...]) -> None:
    c = parsed(*overrides, "data.root=somewhere")
    assert expected == (
        c.resolution,
        c.steps,
        c.global_batch,
        c.micro_batch,
        c.data.buckets,
        c.model.size_conditioning,
        c.model.interpolation_scale,
    )
    o = c.optimizer
    assert (o.lr, o.weight_decay, o.eps, o.clip_norm, o.warmup_steps) == (2e-5, 0.03, 1e-10, 0.01, 1000)
    assert (c.ema.decay, c.data.caption_drop + c.data.label_drop) == (0.9999, 0.1)


@pytest.mark.parametrize("size", ["xl_2", "l_2", "b_2", "s_2", "tiny"])
def test_every_model_size_and_objective_composes(size: str) -> None:
    for objective in ("ddpm", "velocity", "flow"):
        parsed("+stage=2", "data.root=somewhere", f"model={size}", f"objective={objective}")


@pytest.mark.parametrize("optimizer", sorted(file.stem for file in (ROOT / "configs/optimizer").glob("*.yaml")))
@pytest.mark.parametrize("scale", ["paper", "tiny"])
def test_every_optimizer_composes_at_every_scale(optimizer: str, scale: str) -> None:
    parsed("+stage=2", f"scale={scale}", "data=shards", "data.root=somewhere", f"optimizer={optimizer}")


def test_the_miniature_takes_shards_in_place_of_the_embedded_data() -> None:
    config = parsed("+stage=2", "scale=tiny", "data=shards", "data.root=somewhere")
    assert (config.data.kind, config.resolution) == ("shards", 32)


def test_muon_has_a_rate_of_its_own_which_the_square_root_rule_multiplies_too() -> None:
    muon = ("+stage=1", "data.root=d", "optimizer=muon", "optimizer.lr_scaling=sqrt")
    assert parsed(*muon).peak_matrix_lr == pytest.approx(0.02 * 2)
    assert parsed("+stage=1", "data.root=d").peak_matrix_lr is None
    with pytest.raises(ValueError, match=r"^unknown key 'optimizer\.momentum'$"):
        parsed("+stage=1", "data.root=d", "+optimizer.momentum=0.9")


def test_the_square_root_rule_multiplies_the_rate_by_the_root_of_the_batch_over_256() -> None:
    assert parsed("+stage=1", "data.root=d").peak_lr == 2e-5
    assert parsed("+stage=1", "data.root=d", "optimizer.lr_scaling=sqrt").peak_lr == pytest.approx(2e-5 * 2)


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("+stage=2", "stage='2'"),
        ("stage=3", "stage='3'"),
        ("+stage=1,2", "stage='1','2'"),
        ("+stage='2'", "+stage='2'"),
        ("steps=2", "steps=2"),
        ("--cfg", "--cfg"),
    ],
)
def test_the_stage_is_quoted_for_hydra_and_nothing_else_is(typed: str, read: str) -> None:
    assert quote_stage(typed) == read


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer.lr=fast", r"optimizer\.lr.*'fast'"),
        ("steps=-1", r"steps.*greater than 0.*-1"),
        ("+optimizer.power=0.9", r"unknown key 'optimizer\.power'"),
        ("objective.kind=magic", r"objective.*'magic'"),
        ("resolution=35", r"resolution 35 x 35 is not a multiple of 8"),
        ("model.num_heads=7", r"model: dim 96 is not a multiple of num_heads 7"),
        ("data.num_classes=3", r"takes captions or labels"),
        ("data.buckets=aspect_ratio", r"lists? the buckets|list the buckets"),
        ("data.root=nowhere", r"unknown key 'data\.root'|data.root"),
        ("precision=fp8", r"precision.*'fp8'"),
        ("optimizer.eps=inf", r"optimizer\.eps.*finite"),
        ("sampling.seed=-1", r"sampling\.seed.*-1"),
        ("data.buckets=[[a,b]]", r"^data\.buckets"),
        ("steps=true", r"^steps: input should be a number, not true$"),
        ("tracker.project=", r"^tracker\.project is empty: give tracker\.project=…, or leave it out$"),
        ("sampling.guidance_interval=[0.8,0.2]", r"^sampling\.guidance_interval: \[0\.8, 0\.2\] does not rise: give"),
        ("sampling.guidance_interval=[0.5]", r"^sampling\.guidance_interval: there are too few of them in \[0\.5\]$"),
    ],
)
def test_a_wrong_value_is_one_sentence_with_its_path(override: str, words: str) -> None:
    if override.startswith("data.root"):
        override = "+" + override
    with pytest.raises(ValueError, match=words) as caught:
        parsed("+stage=2", "scale=tiny", override)
    assert "\n" not in one_sentence(caught.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({}, "^weights is not set: give weights=…$"),
        ({"weights": {}}, r"^weights: \{\} names none; give a run directory"),
        (
            {"weights": []},
            r"^weights: input should be a valid string, or input should be a valid dictionary, not \[\]$",
        ),
        ({"weights": "x", "scheduler": "foo"}, "^scheduler: input should be 'dpm_solver', .* or 'lcm', not 'foo'$"),
    ],
)
def test_what_evaluation_is_not_told_well_is_one_sentence(overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse({**composed(name="evaluate"), **overrides}, EvaluateConfig)


def test_paper_scale_without_data_names_the_key_and_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"data\.root is not set.*scale=tiny"):
        parsed("+stage=2")


MIXED = ["+stage=2", "data.mixture={a:{root:x,weight:3},b:{root:'s3://y/z',weight:1}}"]


def test_a_mixture_takes_the_place_of_one_root() -> None:
    data = parsed(*MIXED).data
    assert data.kind == "shards"
    assert data.mixture is not None
    assert {name: (part.root, part.weight) for name, part in data.mixture.items()} == {
        "a": ("x", 3.0),
        "b": ("s3://y/z", 1.0),
    }
    assert parsed("+stage=2", "data.mixture={a:{root:x}}").data.mixture["a"].weight is None  # type: ignore[union-attr,index]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([*MIXED, "data.root=z"], r"^give data\.root or data\.mixture, not both"),
        (["+stage=2", "data.mixture={a:{root:x,weight:1},b:{root:y}}"], r"^data\.mixture: give every part a weight"),
        (["+stage=2", "data.mixture={a/b:{root:x}}"], r"^data\.mixture: 'a/b' is to be a name"),
        (
            ["+stage=2", "data.mixture={a:{root:x,weight:0}}"],
            r"^data\.mixture\.a\.weight: .*greater than or equal to 0",
        ),
        (["+stage=2", "data.mixture={a:{weight:1}}"], r"^data\.mixture\.a\.root: field required"),
        (["+stage=2", "data.mixture={}"], r"^data\.mixture: "),
        (["+stage=2", "data.root=x", "data.max_bad_share=2"], r"^data\.max_bad_share: .*less than or equal to 1"),
        (["+stage=2", "data.root=x", "data.cache.gib=0"], r"^data\.cache\.gib: .*greater than 0"),
    ],
)
def test_data_that_are_not_well_said_are_one_sentence(overrides: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        parsed(*overrides)
    assert "\n" not in one_sentence(caught.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.window=1048577"], "data.window: input should be less than or equal to 1048576"),
        (["data.streams=65537"], "data.streams: input should be less than or equal to 65536"),
        (["data.mixture={a:{root:x,weight:1e308}}"], "weight: input should be less than or equal to 1000000000"),
        (["data.mixture={a:{root:x,weight:1e-320}}"], "weight: input should be greater than or equal to 0.000000001"),
        (["data.mixture={a:{root:x,weight:1e4},b:{root:y,weight:1e-3}}"], "more than a million times apart"),
    ],
)
def test_numbers_beyond_what_a_plan_can_count_with_are_one_sentence(overrides: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        parsed("+stage=2", "scale=tiny", "data=shards", *overrides)
    assert "\n" not in one_sentence(caught.value)


def test_where_shards_are_kept_is_free_on_resume_and_what_is_read_is_not() -> None:
    base = default_run_dir(parsed(*MIXED))
    for free in ("data.cache.gib=1", "data.cache.folder=x", "data.verify=false", "data.max_bad_share=1",
                 "data.storage_options={key:me}"):  # fmt: skip
        assert default_run_dir(parsed(*MIXED, free)) == base
    for decisive in ("data.streams=1", "data.window=1", "data.quarantine=q.json", "data.constant_tokens=true"):
        assert default_run_dir(parsed(*MIXED, decisive)) != base


def test_credentials_are_read_and_never_written_down() -> None:
    config = parsed(*MIXED, "data.storage_options={key:me,secret:hush,client_kwargs:{endpoint_url:'http://h:1'}}")
    assert config.data.kind == "shards"
    assert config.data.storage_options is not None
    assert config.data.storage_options["secret"] == "hush"
    for written in (config.model_dump(mode="json"), config.model_dump()):
        assert "hush" not in repr(written)
        assert parse(written, Config).data.kind == "shards"


def test_the_run_directory_depends_on_what_a_step_computes_and_on_nothing_else() -> None:
    constant = ("+stage=2", "scale=tiny", "optimizer.lr_decay=none")
    base = default_run_dir(parsed(*constant))
    assert re.fullmatch(r"outputs/2-tiny-[0-9a-f]{8}", base)
    for free in ("steps=7", "micro_batch=16", "log_every=3", "tracker=wandb", "data.workers=0"):
        assert default_run_dir(parsed(*constant, free)) == base
    for decisive in ("seed=7", "optimizer.lr=1e-5", "global_batch=16", "data.num_samples=10"):
        assert default_run_dir(parsed(*constant, decisive)) != base


def test_the_number_of_steps_binds_where_the_rate_falls_until_the_last() -> None:
    for decay, binds in (("none", False), ("linear", True), ("cosine", True)):
        config = parsed("+stage=2", "scale=tiny", f"optimizer.lr_decay={decay}")
        assert ("steps" in binding(config.model_dump(mode="json"))) == binds


def test_a_run_made_before_a_key_is_the_run_that_says_what_it_did() -> None:
    values = parsed("+stage=1", "data.root=d").model_dump(mode="json")
    earlier = {**values, "optimizer": {k: v for k, v in values["optimizer"].items() if k != "lr_decay"}}
    del earlier["compile"]
    earlier["autoencoder"] = {k: v for k, v in values["autoencoder"].items() if k != "posterior"}
    assert binding(earlier) == binding(values)
    assert binding({**values, "compile": True})["compile"] is True


def test_binding_keys_are_the_config_without_what_a_resume_may_change() -> None:
    keys = binding(parsed("+stage=2", "scale=tiny", "optimizer.lr_decay=none").model_dump(mode="json"))
    assert "optimizer.lr" in keys
    assert not {"steps", "data.workers", "sampling.seed"} & keys.keys()


def door(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "train.py", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no stage was chosen"),
        (("+stage=9", "scale=tiny"), "9"),
        (("+stage=[1,2]", "scale=tiny"), "stage=[1,2]: give the name"),
        (("+stage=2", "scale=tiny", "optimizer=null"), "optimizer"),
        (("+stage=2", "scale=huge"), "huge"),
        (("+stage=2", "scale=tiny", "stpes=3"), "'stpes': there is no such key"),
        (("+stage=2", "scale=tiny", "optimizer.lr=fast"), "optimizer.lr"),
        (("+stage=3", "resolution=300", "data.root=x"), "300"),
        (("+stage=2",), "data.root"),
    ],
)
def test_the_door_answers_a_mistake_with_one_line_and_a_code(arguments: tuple[str, ...], words: str) -> None:
    answer = door(*arguments)
    assert answer.returncode != 0
    assert answer.stdout == ""
    assert len(answer.stderr.strip().splitlines()) == 1, answer.stderr
    assert words in answer.stderr


def test_the_door_prints_its_config_and_runs_a_sweep_over_stages() -> None:
    printed = door("+stage=2", "scale=tiny", "--cfg", "job")
    assert printed.returncode == 0
    assert "global_batch: 128" in printed.stdout
    swept = door("-m", "+stage=1,2")  # both jobs get as far as asking for data
    assert "data.root" in swept.stderr
    assert door("--help").returncode == 0
