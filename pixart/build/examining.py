"""The examination of a configuration: its data opened, planned and sampled as a run would, without its models."""

from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pixart.build.opening import Opened, lacking_in, opened, planned
from pixart.build.parts import autoencoder, text_encoder
from pixart.build.reading import RunData
from pixart.config import Config
from pixart.data.buckets import batch_sizes, buckets_for
from pixart.data.dataset import cuts
from pixart.data.planning.plan import Plan
from pixart.data.storage.quarantine import read_quarantine
from pixart.encoders.text import load_tokenizer
from pixart.preparation.doctor import Examination, Planned, PlannedBucket, PlannedPart, Quarantined
from pixart.preparation.doctor_samples import UNLIMITED, choose, examine_captions, examine_labels, read_samples
from pixart.preparation.doctor_sizes import Sized, examine_sizes


class Extent(NamedTuple):
    """How much is looked into, and for how many processes the run is meant."""

    samples: int
    shards: int
    processes: int


class _Run:
    """What the looks look at."""

    def __init__(self, config: Config, extent: Extent, data: Opened):
        self.config, self.extent, self.data = config, extent, data
        rows = [np.arange(len(part.heights)) if part.rows is None else part.rows for part in data.parts.values()]
        held = [data.held_rows] if data.held_source is data.source else []
        self.rows = np.concatenate(rows)  # of data.source, to train on
        self.all_rows = np.concatenate([*rows, *held])  # and those that are held out, where it has them too

    @cached_property
    def plan(self) -> Plan:
        """The plan of the run; ``ValueError`` where there is none."""
        return planned(self.config, self.data, order_cache=None)


def examine(config: Config, extent: Extent) -> Examination:
    """What a run of ``config`` would see; what would stop it becomes a problem and the rest is looked at."""
    found = Examination(_subject(config), max_bad_share=config.data.max_bad_share)
    try:
        data = opened(config)
    except (ValueError, OSError) as error:
        return found._replace(problems=(_sentence(error),))
    run = _Run(config, extent, data)
    problems = lacking_in(config, data)
    for look in (_quarantine, _plan, _sizes, _samples, _captions, _labels, _stamps, _encoders):
        try:
            found = found._replace(**look(run, found))
        except (ValueError, OSError) as error:
            problems.append(_sentence(error))
    return found._replace(problems=tuple(dict.fromkeys(problems)))


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())


def _subject(config: Config) -> dict[str, str]:
    data = config.data
    where = "the embedded data set" if data.kind == "shapes" else data.root or ", ".join(data.mixture or ())
    return {"stage": str(config.stage), "scale": config.scale, "resolution": str(config.resolution), "data": where}


def _quarantine(run: _Run, found: Examination) -> dict[str, Any]:  # noqa: ARG001
    section = run.config.data
    if section.kind != "shards" or section.quarantine is None:
        return {}
    read = read_quarantine(Path(section.quarantine).expanduser())
    return {"quarantine": Quarantined(section.quarantine, read.version, len(read.keys), run.data.quarantined)}


def _plan(run: _Run, found: Examination) -> dict[str, Any]:  # noqa: ARG001
    config, steps = run.config, run.config.steps
    report = run.plan.report()
    for size in {bucket.global_batch for bucket in report.buckets}:
        cuts(size, micro_batch=config.micro_batch, world_size=run.extent.processes, rank=0, k=0)
    buckets = tuple(PlannedBucket(*one[:5], one.share_of_steps * steps) for one in report.buckets)
    parts = tuple(
        PlannedPart(name or "all", *part, steps / part.steps_per_pass)
        for name, part in zip(run.data.parts, report.parts, strict=True)
    )
    seen = sum(one.batches * one.global_batch for one in buckets)
    return {"plan": Planned(steps, report.samples, seen, report.steps_per_pass, buckets, parts)}


def _sizes(run: _Run, found: Examination) -> dict[str, Any]:
    section, parts = run.config.data, list(run.data.parts.values())
    shares = [float(len(part.heights)) for part in parts]
    if found.plan is not None:
        shares = [part.share for part in found.plan.parts]
    buckets = buckets_for(run.config.resolution, section.buckets)
    sizes = examine_sizes(
        [Sized(part.heights, part.widths, share) for part, share in zip(parts, shares, strict=True)],
        buckets=buckets,
        global_batches=batch_sizes(
            buckets, global_batch=run.config.global_batch, constant_tokens=section.constant_tokens
        ),
        small_buckets=section.small_buckets,
        distance=section.bucket_distance,
    )
    return {"sizes": sizes}


def _samples(run: _Run, found: Examination) -> dict[str, Any]:  # noqa: ARG001
    source, extent = run.data.source, run.extent
    amount = {"samples": extent.samples, "files": extent.shards, "seed": run.config.seed}
    choice = run.config.data.caption_choice
    read = read_samples(source, choose(run.rows, source.shards, **amount), choice=choice)
    held_source, held_rows = run.data.held_source, run.data.held_rows
    if not len(held_rows):
        return {"read": read}
    held = read_samples(held_source, choose(held_rows, held_source.shards, **amount), choice=choice)
    return {"read": read, "held": held}


def _captions(run: _Run, found: Examination) -> dict[str, Any]:
    encoder, read = run.config.text_encoder, found.read
    texts = [] if read is None else [text for captions in read.captions.values() for text in captions]
    if encoder is None or not texts:
        return {}
    tokenizer = load_tokenizer(encoder.source, max_tokens=UNLIMITED, cleaning=encoder.cleaning)
    return {"captions": examine_captions(texts, tokenizer, max_tokens=encoder.max_tokens)}


def _labels(run: _Run, found: Examination) -> dict[str, Any]:  # noqa: ARG001
    if run.config.data.num_classes is None:
        return {}
    labels = run.data.source.labels
    return {
        "labels": examine_labels(
            None if labels is None else labels[run.all_rows], len(run.all_rows), classes=run.config.data.num_classes
        )
    }


def _stamps(run: _Run, found: Examination) -> dict[str, Any]:  # noqa: ARG001
    told = {key: value for key, value in (run.data.source.stamps or {}).items() if key != "null_caption"}
    told |= {"buckets": len(told["buckets"])} if "buckets" in told else {}
    return {"stamps": {key: str(value) for key, value in told.items()} or None}


def _encoders(run: _Run, found: Examination) -> dict[str, Any]:  # noqa: ARG001
    """Nothing to tell where the run takes these stored features: all that reads them is made, as for the run."""
    if run.data.source.stamps:
        encoder, latents = text_encoder(run.config, defer=True), autoencoder(run.config)
        RunData(run.config, run.data, encoder, latents, plan=run.plan)
    return {}
