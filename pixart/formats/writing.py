"""Weights into any format that can hold them."""

from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from pixart.aside import folder_aside, refuse_taken, refuse_unwritable, written_aside
from pixart.foreign_words import plain
from pixart.formats import released
from pixart.formats.diffusers_folder import diffusers_config, write_diffusers
from pixart.formats.official import Y_EMBEDDING, to_official
from pixart.formats.pipeline_folder import write_beside
from pixart.formats.positions import POS_EMBED
from pixart.formats.snapshot import write_snapshot
from pixart.formats.table import Row
from pixart.formats.weights import Format, Weights, objective_of, run_config, section


def write(
    weights: Weights,
    out: str | Path,
    *,
    to: Format,
    text_encoder: str | None = None,
    autoencoder: str | None = None,
    encoders: Literal["copy", "link"] = "copy",
) -> list[Row]:
    """Write ``weights`` to ``out``, where nothing may lie yet; afterwards a whole file or folder does, or nothing.

    Args:
        weights: from ``read``.
        out: a file for ``snapshot`` and ``pixart``, a new folder for ``diffusers`` and ``diffusers-pipeline``.
        to: see docs/weights.md for what each can hold.
        text_encoder: T5 for a pipeline: a folder, a hub name or "shapes-t5"; None takes the one that the weights came
            with. For ``pixart`` it gives the null caption of weights that carry none, likewise.
        autoencoder: likewise for a pipeline.
        encoders: whether a pipeline gets copies of their files, or links to them.

    Returns:
        What became of each tensor.

    Raises:
        ValueError: one sentence naming what the format cannot hold, or what lies at ``out``.
    """
    path = Path(out).expanduser()
    if to not in get_args(Format):
        raise ValueError(f"to={plain(str(to))} is not one of {', '.join(get_args(Format))}")
    refuse_taken(path, folder=to.startswith("diffusers"))
    _refuse_within(path, {"source": weights.path, "text_encoder": text_encoder, "autoencoder": autoencoder})
    if to == "snapshot":
        refuse_unwritable(path, key="out")
        return _write_snapshot(path, weights)
    _refuse_what_only_snapshots_say(weights, to)
    refuse_unwritable(path, key="out")
    if to == "pixart":
        return _write_official(path, weights, text_encoder)
    if to == "diffusers":
        with folder_aside(path) as folder:
            return write_diffusers(folder, weights)
    diffusers_config(weights.model_config)  # what can be refused at once should not wait for files to be copied
    with folder_aside(path) as folder:
        beside = write_beside(
            folder, weights, text_encoder=text_encoder, autoencoder=autoencoder, link=encoders == "link"
        )
        (folder / "transformer").mkdir()
        return write_diffusers(folder / "transformer", weights) + beside


def _refuse_within(out: Path, sources: dict[str, str | Path | None]) -> None:
    """``ValueError`` where ``out`` lies in one of the folders that are read: they are to stay what they are."""
    for key, source in sources.items():
        folder = None if source is None else Path(source).expanduser()
        if folder is not None and folder.is_dir() and out.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"out={out} lies within {key}={source}: give a place outside of it")


def _refuse_what_only_snapshots_say(weights: Weights, to: Format) -> None:
    objective, config = objective_of(weights), weights.model_config
    usual = all(objective.get(key) == released.OBJECTIVE[key] for key in ("num_timesteps", "schedule", "prediction"))
    wrong = None
    if config["num_classes"] is not None or config["text_dim"] is None:
        wrong = "a model of labels (classes in place of captions)"
    elif config["adaln"] != "single":
        wrong = f"adaln={config['adaln']}"
    elif objective["kind"] != "gaussian":
        wrong = "a flow-matching model"
    elif to != "diffusers-pipeline" and not usual:
        wrong = f"the objective {objective['prediction']}, {objective['num_timesteps']} {objective['schedule']} steps"
    elif to == "pixart" and config["out_channels"] != 2 * config["in_channels"]:
        wrong = "a model without learned variance"
    if wrong is not None:
        raise ValueError(f"to={to} cannot hold {wrong}: its readers take it for the released kind; use to=snapshot")


def _write_snapshot(path: Path, weights: Weights) -> list[Row]:
    origin = weights.snapshot  # whose run goes on being theirs
    write_snapshot(
        path,
        weights.tensors,
        model_config=weights.model_config,
        run_config=run_config(weights),
        stamps={} if origin is None else origin.stamps,
        step=0 if origin is None else origin.step,
        samples_seen=0 if origin is None else origin.samples_seen,
        null_caption=weights.null_caption,
        null_kind=weights.null_kind or "empty",
        licence=weights.licence,
        run=None if origin is None else origin.run,
        profile=None if origin is None else origin.profile,
    )
    rows = [Row(name, "copied", "") for name in weights.tensors]
    if weights.null_caption is not None:
        rows.append(Row("null_caption", "copied", f"{len(weights.null_caption)} rows, {weights.null_kind}"))
    return rows


def _write_official(path: Path, weights: Weights, text_encoder: str | None) -> list[Row]:
    null_caption, detail = _y_embedding(weights, text_encoder)
    with written_aside(path) as aside, aside.open("wb") as file:
        torch.save(to_official(weights, null_caption), file)
    rows = [Row(POS_EMBED, "written", "positions of the configured square"), Row(Y_EMBEDDING, "written", detail)]
    return rows + [Row(name, "copied", "") for name in weights.tensors]


def _y_embedding(weights: Weights, text_encoder: str | None) -> tuple[Tensor, str]:
    """All rows of the official null caption, and where they came from.

    Official sampling attends to as many of these rows as the prompt has tokens. Equal rows attend as one, so a null
    caption of one row (T5's end token, the whole of the empty caption) is kept exactly by repeating it; zeros or
    padding in its place would be attended to and change the pictures.
    """
    null = weights.null_caption
    if null is not None and weights.null_kind == "y_embedding":
        return null, "as it was read"
    text_encoder = text_encoder or _beside(weights)
    if null is None and text_encoder is not None:
        null = _empty_caption(text_encoder)
    if null is None:
        raise ValueError(
            f"to=pixart needs tensor '{Y_EMBEDDING}' and {weights.source} has no null caption: "
            "give text_encoder= for that of the empty prompt, or null_caption= (tools/convert.py) for that of others"
        )
    wanted = weights.model_config["text_dim"]
    if null.shape[1] != wanted:
        raise ValueError(f"text_encoder={text_encoder} has width {null.shape[1]} and the model takes {wanted}")
    if len(null) != 1:
        raise ValueError(
            f"to=pixart cannot hold a null caption of {len(null)} rows of its own: official sampling cuts it to the "
            "length of each prompt"
        )
    count = _caption_tokens(weights)
    return null.expand(count, -1), f"the empty caption's one row, {count} times: attends as one"


def _caption_tokens(weights: Weights) -> int:
    return int(section(weights, "text_encoder").get("max_tokens", released.CAPTION_TOKENS))


def _beside(weights: Weights) -> str | None:
    """The pipeline that the weights lay in, if its text encoder is there."""
    pipeline = weights.pipeline
    return str(pipeline) if pipeline is not None and (pipeline / "text_encoder").is_dir() else None


def _empty_caption(text_encoder: str) -> Tensor:
    from pixart.encoders.text import load_text_encoder

    encoder = load_text_encoder(text_encoder, max_tokens=released.CAPTION_TOKENS, cleaning="none", dtype=torch.float32)
    states, mask = encoder([""])  # (1, L0, D), (1, L0)
    return states[0, mask[0]]
