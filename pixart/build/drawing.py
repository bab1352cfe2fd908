"""Weights to pictures and scores, for the doors that do not train."""

from pathlib import Path
from typing import Any, Literal

import torch

from pixart import config as shape
from pixart.build.parts import autoencoder, objective, text_encoder
from pixart.config import Config, EvaluateConfig, Precision
from pixart.data.buckets import buckets_for
from pixart.formats.snapshot import find_snapshot, read_snapshot
from pixart.models.dit import PixArt
from pixart.sampling.grid import make_grid
from pixart.sampling.pipeline import Pipeline
from pixart.sampling.words import NullMask, ToldRatio


def open_weights(
    weights: str,
    *,
    precision: Precision | None,
    text_source: str | None,
    autoencoder_source: str | None,
    null_caption: Literal["empty", "y_embedding"] = "empty",
    null_mask: NullMask = "own",
    told_aspect_ratio: ToldRatio | None = None,
) -> tuple[Pipeline, Config]:
    """A pipeline from a run directory or snapshot, with the configuration that its weights were trained by.

    ``null_caption`` is the text encoder's of the empty caption, or the rows that the weights carry; the aspect ratio
    is told as in training where ``told_aspect_ratio`` is None. Raises ``ValueError`` where the weights cannot be read,
    carry no null caption and are to give it, or an encoder is not the one that the model was trained with.
    """
    path = find_snapshot(weights)
    snapshot = read_snapshot(path)
    config = _with_sources(shape.parse(snapshot.run_config, Config), text_source, autoencoder_source)
    encoder, latents = text_encoder(config), autoencoder(config)
    found = {"text_encoder": None if encoder is None else encoder.fingerprint, "autoencoder": latents.fingerprint}
    for name, stamp in snapshot.stamps.items():
        if found.get(name) != stamp:
            raise ValueError(
                f"{path} was trained with another {name} (stamp {stamp}, this one is {found.get(name)}): "
                f"give that one as {name}=<folder or hub name>"
            )
    if null_caption == "y_embedding" and snapshot.null_caption is None:
        raise ValueError(f"null_caption=y_embedding: {path} carries no null caption; take null_caption=empty")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen: Precision = precision or ("bf16" if device.type == "cuda" else "fp32")
    loaded = PixArt.from_pretrained(path).to(device).eval()
    if encoder is not None:
        encoder.to(device)
    pipeline = Pipeline(
        loaded,
        objective(config),
        encoder,
        latents.to(device),
        device=device,
        precision=chosen,
        null_caption=snapshot.null_caption if null_caption == "y_embedding" else None,
        null_mask=null_mask,
        told_aspect_ratio=told_aspect_ratio or config.data.aspect_ratio,
    )
    return pipeline, config


def _with_sources(config: Config, text_source: str | None, autoencoder_source: str | None) -> Config:
    sections = {"text_encoder": text_source, "autoencoder": autoencoder_source}
    changed = {
        name: getattr(config, name).model_copy(update={"source": source})
        for name, source in sections.items()
        if source is not None and getattr(config, name) is not None
    }
    return config.model_copy(update=changed)


def score_alignment(weights: str, asked: EvaluateConfig, grid: Path | None) -> dict[str, Any]:
    """The alignment of weights with held-out prompts of the embedded data set, ``per_task`` of each task.

    A class-conditional model is asked for labels instead, as many as one task has prompts. ``grid`` is where a picture
    of the first ones goes. Returns ``pixart.metrics.alignment.Report.as_dict()``.
    """
    from pixart.data.shapes import TASKS, label_target, prompts
    from pixart.metrics.alignment import score

    pipeline, config = open_weights(weights, precision=asked.precision, text_source=None, autoencoder_source=None)
    wanted: list[Any]
    if config.text_encoder is None:
        assert config.data.num_classes is not None
        wanted = [i % config.data.num_classes for i in range(asked.per_task)]
        targets = [label_target(label) for label in wanted]
    else:
        held_out = [prompt for task in TASKS for prompt in prompts(task, asked.per_task, asked.seed)]
        wanted, targets = [prompt.text for prompt in held_out], [prompt.target for prompt in held_out]
    buckets = buckets_for(config.resolution, config.data.buckets)
    images = pipeline(
        prompts=None if config.text_encoder is None else wanted,
        labels=wanted if config.text_encoder is None else None,
        seeds=[asked.seed + i for i in range(len(wanted))],
        sizes=[buckets[i % len(buckets)] for i in range(len(wanted))],
        guidance_scale=asked.guidance_scale,
        num_inference_steps=asked.num_inference_steps,
        guidance_channels="all",
        scheduler_name=asked.scheduler,
        batch_size=asked.batch_size,
    )
    if grid is not None:
        shown = range(0, len(wanted), max(1, len(wanted) // 24))
        grid.parent.mkdir(parents=True, exist_ok=True)
        make_grid([images[i] for i in shown], [str(wanted[i]) for i in shown], columns=6).save(grid)
    return score(images, targets).as_dict()
