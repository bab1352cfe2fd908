"""Weights to pictures and scores, for the doors that do not train."""

import gc
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch

from pixart.build.parts import DTYPES, autoencoder, text_encoder
from pixart.build.remembered import Remembered, path_of, path_told, remember
from pixart.build.worse import read_told, read_worse
from pixart.config import Draw, Precision
from pixart.data.buckets import Bucket, buckets_for
from pixart.diffusion.guidance import Interval
from pixart.diffusion.objective import Objective
from pixart.encoders.autoencoder import LatentSpace, load_autoencoder
from pixart.encoders.recalled import Recalled
from pixart.encoders.text import CaptionEncoder, TextEncoder, load_text_encoder
from pixart.formats import Weights, released
from pixart.formats.pipeline_folder import is_distilled
from pixart.formats.reading import build
from pixart.formats.weights import objective_of, run_config
from pixart.models.compiled import compile_blocks
from pixart.models.precision import halve
from pixart.sampling.pipeline import Pipeline
from pixart.sampling.words import NullMask, ToldRatio

PATH_ALONE = {"objective", "sampling"}  # sections that foreign weights may tell of, where a run of ours tells all


class Habits(NamedTuple):
    """How a run draws its own pictures, and so whoever uses its weights and says nothing else."""

    scheduler_name: str
    num_inference_steps: int
    guidance_scale: float
    guidance_interval: Interval | None = None

    def unless(self, asked: Draw) -> "Habits":
        """These, where ``asked`` leaves them open."""
        given = (asked.scheduler, asked.num_inference_steps, asked.guidance_scale, asked.guidance_interval)
        return Habits(*(mine if other is None else other for mine, other in zip(self, given, strict=True)))  # type: ignore[arg-type]


class Opened(NamedTuple):
    """Weights, ready to draw."""

    pipeline: Pipeline
    sizes: tuple[Bucket, ...]  # that they were trained on
    habits: Habits


class _Around(NamedTuple):
    """What surrounds a model when it draws."""

    objective: Objective
    text_encoder: TextEncoder | None
    autoencoder: LatentSpace
    sizes: tuple[Bucket, ...]  # that it was trained on
    told_aspect_ratio: ToldRatio  # as it was in training
    habits: Habits


def open_weights(
    weights: str,
    *,
    precision: Precision | None,
    text_source: str | None,
    autoencoder_source: str | None,
    null_caption: Literal["empty", "y_embedding"] | None = None,
    null_mask: NullMask | None = None,
    told_aspect_ratio: ToldRatio | None = None,
    compiled: bool = False,
    tiled: bool = False,
    low_memory: Sequence[str] | None = None,
    autoguidance: str | None = None,
) -> Opened:
    """A pipeline from weights of any format, with the sizes that they were trained on and the habits of their run.

    Sources of encoders are for weights that do not name theirs, or in place of those. ``null_caption`` is the text
    encoder's of the empty caption, or the official rows, None for what the weights carry; ``null_mask`` None looks at
    as many official rows as the prompt has tokens, and at all of an empty caption's. The aspect ratio is told as in
    training where ``told_aspect_ratio`` is None; ``compiled`` compiles the model's blocks, ``tiled`` decodes in tiles;
    ``low_memory`` lists the only prompts that will be drawn: they are encoded here in 8 bit, and the encoder let go.
    ``autoguidance`` names the weights of a worse model, see ``read_worse``.
    Raises ``ValueError`` where the weights cannot be read, are to give official rows that they do not have, name no
    encoder and none is given, or were trained with another.
    """
    found = read_told(weights)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen: Precision = precision or ("bf16" if device.type == "cuda" else "fp32")
    if run_config(found).keys() - PATH_ALONE:
        around = _as_trained(weights, found, text_source, autoencoder_source, lean=low_memory is not None)
    else:
        lean = low_memory is not None
        around = _as_released(weights, found, text_source, autoencoder_source, DTYPES[chosen], lean=lean)
    carried = found.null_kind == "y_embedding"
    official = carried if null_caption is None else null_caption == "y_embedding"
    if official and not carried:
        raise ValueError(f"null_caption=y_embedding: {weights} does not carry it; take null_caption=empty")
    if low_memory is None:
        captions: CaptionEncoder | None = _on(device, around.text_encoder)
    else:
        del found  # not while the encoder is there: to look at its numbers brought all of the file into memory
        captions = _encoded(around.text_encoder, device, low_memory)
        found = read_told(weights)
    around.autoencoder.use_tiling(tiled)
    model = build(found)
    worse = None if autoguidance is None else build(read_worse(autoguidance, weights, found))
    for each in (model,) if worse is None else (model, worse):
        if chosen != "fp32":  # else autocast rounds them all at every step
            halve(each, DTYPES[chosen])
        each.to(device)
        if compiled:
            compile_blocks(each, device)
    pipeline = Pipeline(
        model,
        around.objective,
        captions,
        around.autoencoder.to(device),
        device=device,
        precision=chosen,
        null_caption=found.null_caption if official else None,
        null_mask=null_mask or ("prompt" if official else "own"),
        told_aspect_ratio=told_aspect_ratio or around.told_aspect_ratio,
        worse=worse,
    )
    return Opened(pipeline, around.sizes, around.habits)


def _on(device: torch.device, encoder: TextEncoder | None) -> TextEncoder | None:
    return None if encoder is None else encoder.to(device)


def _encoded(encoder: TextEncoder | None, device: torch.device, prompts: Sequence[str]) -> CaptionEncoder | None:
    """What the encoder says of the ``prompts`` and of none, and its memory free."""
    if encoder is None:
        return None
    recalled = Recalled(encoder.to(device), [*prompts, ""])
    encoder.release()
    # What was imported on the way to the weights may hold them: a failure that an import caught and kept has the frames
    # of its callers, in a cycle.
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return recalled


def _as_trained(
    weights: str, found: Weights, text_source: str | None, autoencoder_source: str | None, *, lean: bool
) -> _Around:
    """What a run of ours says of itself; its encoders must be those that it was trained with."""
    assert found.snapshot is not None
    config = _with_sources(remember(weights, found.snapshot.run_config), text_source, autoencoder_source)
    encoder, latents = text_encoder(config, defer=lean, eight_bit=lean), autoencoder(config)
    stamps = {"text_encoder": None if encoder is None else encoder.fingerprint, "autoencoder": latents.fingerprint}
    for name, stamp in found.snapshot.stamps.items():
        if stamps.get(name) != stamp:
            raise ValueError(
                f"{weights} was trained with another {name} (stamp {stamp}, this one is {stamps.get(name)}): "
                f"give that one as {name}=<folder or hub name>"
            )
    sizes = buckets_for(config.resolution, config.data.buckets)
    drawn = config.sampling
    habits = Habits(drawn.scheduler, drawn.num_inference_steps, drawn.guidance_scale, drawn.guidance_interval)
    return _Around(path_of(config), encoder, latents, sizes, config.data.aspect_ratio, habits)


def _as_released(
    weights: str,
    found: Weights,
    text_source: str | None,
    autoencoder_source: str | None,
    dtype: torch.dtype,
    *,
    lean: bool,
) -> _Around:
    """The surroundings of the released models, for weights that say nothing of theirs."""
    beside = None if found.pipeline is None else str(found.pipeline)
    needed = {"autoencoder": autoencoder_source or beside}
    if found.model_config["text_dim"] is not None:
        needed["text_encoder"] = text_source or beside
    missing = [f"{name}=<folder or hub name>" for name, source in sorted(needed.items()) if source is None]
    if missing:
        raise ValueError(f"{weights} does not name its encoders: give {' and '.join(missing)}")
    latents = load_autoencoder(str(needed["autoencoder"]), dtype=torch.float32)
    if latents.channels != found.model_config["in_channels"]:
        raise ValueError(
            f"autoencoder={needed['autoencoder']} has latents of {latents.channels} channels and {weights} takes "
            f"{found.model_config['in_channels']}: give the one that it was trained with"
        )
    encoder = None
    if "text_encoder" in needed:
        rows = len(found.null_caption) if found.null_kind == "y_embedding" and found.null_caption is not None else 0
        encoder = load_text_encoder(
            str(needed["text_encoder"]),
            max_tokens=rows or released.CAPTION_TOKENS,
            cleaning="official",
            dtype=dtype,
            defer=lean,
            eight_bit=lean,
        )
    config = found.model_config
    resolution = config["input_size"] * latents.stride
    several = config["size_conditioning"] and resolution in (512, 1024)
    sizes = buckets_for(resolution, "aspect_ratio" if several else "square")
    learned = config["out_channels"] == 2 * config["in_channels"]
    path = path_told(weights, objective_of(found), learned_variance=learned)
    habits = Habits(*(released.DISTILLED_HABITS if is_distilled(found) else released.HABITS))
    return _Around(path, encoder, latents, sizes, "bucket", habits)


def _with_sources(config: Remembered, text_source: str | None, autoencoder_source: str | None) -> Remembered:
    sections = {"text_encoder": text_source, "autoencoder": autoencoder_source}
    changed = {
        name: getattr(config, name).model_copy(update={"source": source})
        for name, source in sections.items()
        if source is not None and getattr(config, name) is not None
    }
    return config.model_copy(update=changed)
