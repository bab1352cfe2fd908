"""The door: what it cannot do is said before the first picture, and every score has its place."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from miniature import small

from pixart.build.parts import autoencoder, model
from pixart.formats.snapshot import write_snapshot

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small class-conditional model that was never trained."""
    folder = tmp_path_factory.mktemp("weights")
    config = small(1, folder)
    drawn = model(config)
    write_snapshot(
        folder / "a.safetensors",
        drawn.state_dict(),
        model_config=drawn.config,
        run_config=json.loads(config.model_dump_json()),
        stamps={"text_encoder": None, "autoencoder": autoencoder(config).fingerprint},
        step=0,
        samples_seen=0,
        null_caption=None,
        null_kind="y_embedding",
    )
    return str(folder / "a.safetensors")


def evaluate(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *arguments, "per_task=4", "num_inference_steps=1"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "path", [*sys.path])
    runpy.run_path(str(ROOT / "tools" / "evaluate.py"), run_name="__main__")


def test_2_names_are_2_rows_and_2_scores_in_the_file(weights, tmp_path, monkeypatch, capsys):
    evaluate(
        monkeypatch, f"weights={{first: {weights}, again: {weights}}}", f"autoguidance={{again: {weights}}}",
        f"json={tmp_path / 'new/scores.json'}", f"images={tmp_path / 'grids'}",
    )  # fmt: skip
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows if row and row[0] in ("first", "again")] == ["first", "again"]
    scores = json.loads((tmp_path / "new/scores.json").read_text())["alignment"]
    assert scores["first"] == scores["again"]  # which led itself away from itself
    assert sorted(path.name for path in (tmp_path / "grids").iterdir()) == ["again.png", "first.png"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"json": "."}, "json=. is a folder and no file: give the path of a file"),
        ({"images": "/dev/null"}, "images=/dev/null cannot be written"),
        ({"weights": "{first: @, second: nowhere.safetensors}"}, "nowhere.safetensors: there is no such file"),
        ({"autoguidance": "{weights: nowhere.pt}"}, "nowhere.pt: there is no such file"),
        ({"weights": "{}"}, "weights: {} names none"),
    ],
)
def test_what_cannot_be_done_is_said_before_the_first_picture(weights, tmp_path, monkeypatch, given, sentence):
    monkeypatch.setattr("pixart.build.scoring.score_alignment", lambda *_, **__: pytest.fail("drawn"))
    asked = {"weights": weights, "images": str(tmp_path / "grids"), **given}
    with pytest.raises(SystemExit) as stop:
        evaluate(monkeypatch, *(f"{key}={value.replace('@', weights)}" for key, value in asked.items()))
    assert sentence in str(stop.value.code)
    assert not list(tmp_path.glob("grids/*"))
