"""Weights to scores, for the door that evaluates them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pixart.build.drawing import open_weights
from pixart.config import EvaluateConfig
from pixart.sampling.grid import make_grid


def score_alignment(
    name: str, asked: EvaluateConfig, grid: Path | None, *, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """The alignment of the weights of a name with held-out prompts of the embedded data set, ``per_task`` of each task.

    A class-conditional model is asked for labels instead, as many as one task has prompts. ``grid`` is where a picture
    of the first ones goes, ``progress`` is told (steps done, steps in all). Returns
    ``pixart.metrics.alignment.Report.as_dict()``.
    """
    from pixart.data.embedded.shapes import TASKS, label_target, prompts
    from pixart.metrics.alignment import score

    worse = (asked.autoguidance or {}).get(name)
    pipeline, trained_on, habits = open_weights(
        asked.named[name],
        precision=asked.precision,
        text_source=None,
        autoencoder_source=None,
        compiled=asked.compile,
        autoguidance=worse,
    )
    sizes = (asked.sizes or {}).get(name) or trained_on
    wanted: list[Any]
    if pipeline.text_encoder is None:
        wanted = [i % pipeline.config["num_classes"] for i in range(asked.per_task)]
        targets = [label_target(label) for label in wanted]
    else:
        held_out = [prompt for task in TASKS for prompt in prompts(task, asked.per_task, asked.seed)]
        wanted, targets = [prompt.text for prompt in held_out], [prompt.target for prompt in held_out]
    images = pipeline(
        prompts=None if pipeline.text_encoder is None else wanted,
        labels=wanted if pipeline.text_encoder is None else None,
        seeds=[asked.seed + i for i in range(len(wanted))],
        sizes=[sizes[i % len(sizes)] for i in range(len(wanted))],
        **habits.unless(asked)._asdict(),
        guidance_channels="all",
        autoguidance_scale=asked.autoguidance_scale_for(worse),
        batch_size=asked.batch_size,
        progress=progress,
    )
    if grid is not None:
        shown = range(0, len(wanted), max(1, len(wanted) // 24))
        grid.parent.mkdir(parents=True, exist_ok=True)
        make_grid([images[i] for i in shown], [str(wanted[i]) for i in shown], columns=6).save(grid)
    return score(images, targets).as_dict()
