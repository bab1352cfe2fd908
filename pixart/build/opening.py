"""The data of a run opened: where they lie, what is left out of them, what is held out, and the plan of the rest."""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pixart.config import Config, MixturePart, ShapesData, ShardsData
from pixart.data.buckets import batch_sizes, buckets_for
from pixart.data.complete import lacking
from pixart.data.mixture import Mixture, shared_out
from pixart.data.planning.plan import Part, Plan
from pixart.data.planning.validation import split_rows
from pixart.data.source import Source
from pixart.data.storage.cache import CacheSettings
from pixart.data.storage.quarantine import Quarantine, read_quarantine, rows_left
from pixart.data.storage.shards import Shards

Rows = NDArray[np.int64]


class Opened(NamedTuple):
    """The data to train on and those held out, each as a source and rows of it."""

    source: Source
    parts: dict[str, Part]  # by name, the rows to train on; one part with an empty name where there is no mixture
    held_source: Source
    held_rows: Rows
    where: str  # in words
    quarantine: str | None = None  # in words; None where nothing is left out
    excluded: str | None = None  # a fingerprint of the keys that are left out
    quarantined: int = 0  # rows that are left out
    unknown: int = 0  # keys in quarantine that these data do not have

    @property
    def stored_text(self) -> bool:
        """Whether captions come as text states, which need no text encoder."""
        return bool(self.source.stamps and self.source.stamps["text_encoder"])


def opened(config: Config) -> Opened:
    """Open the data of a run; ``ValueError`` in one sentence where they are not as the configuration says."""
    return _shapes(config, config.data) if config.data.kind == "shapes" else _shards(config.data)


def planned(config: Config, data: Opened, *, order_cache: Path | None) -> Plan:
    """The plan of a run over ``data``."""
    section = config.data
    buckets = buckets_for(config.resolution, section.buckets)
    return Plan(
        tuple(data.parts.values()),
        buckets=buckets,
        global_batch=batch_sizes(buckets, global_batch=config.global_batch, constant_tokens=section.constant_tokens),
        seed=config.seed,
        small_buckets=section.small_buckets,
        distance=section.bucket_distance,
        streams=section.streams,
        window=section.window,
        order_cache=order_cache,
    )


def lacking_in(config: Config, data: Opened) -> list[str]:
    """A sentence for each thing that a run of ``config`` needs of every sample, and some do not have."""
    rows = [np.arange(len(part.heights)) if part.rows is None else part.rows for part in data.parts.values()]
    together = data.held_source is data.source
    groups = [(data.source, np.concatenate([*rows, data.held_rows] if together else rows))]
    groups += [] if together else [(data.held_source, data.held_rows)]
    captions = config.text_encoder is not None and not data.stored_text
    told = [lacking(*group, captions=captions, classes=config.data.num_classes) for group in groups]
    return [sentence for sentences in told for sentence in sentences]


def _shapes(config: Config, section: ShapesData) -> Opened:
    from pixart.data.embedded.shapes import Shapes

    def made(split: Literal["train", "validation"], num_samples: int) -> Shapes:
        return Shapes(
            section.view,
            split,
            num_samples=num_samples,
            resolution=config.resolution,
            sizes=buckets_for(config.resolution, section.buckets),
            density=section.density,
            seed=section.seed,
        )

    held = section.validation_samples
    source, held_source = made("train", section.num_samples), made("validation", max(1, held))
    parts = {"": Part(source.heights, source.widths)}
    return Opened(source, parts, held_source, np.arange(held), "the embedded data set")


def _shards(section: ShardsData) -> Opened:
    """One data set or a mixture; each is split, and freed of what is in quarantine, on its own.

    It is split first: to leave a key out moves no other from one side to the other.
    """
    origins = section.mixture or {"": MixturePart(root=str(section.root))}
    sources = {name: _opened(section, origin.root) for name, origin in origins.items()}
    whole: Source = sources[""] if section.mixture is None else Mixture(sources)
    quarantine = None if section.quarantine is None else read_quarantine(Path(section.quarantine).expanduser())
    weights = [origin.weight for origin in origins.values()]
    held_counts = shared_out(section.validation_samples, weights, [len(source) for source in sources.values()])
    parts, held, left_out, start = dict[str, Part](), list[Rows](), 0, 0
    for (name, source), weight, count in zip(sources.items(), weights, held_counts, strict=True):
        rows, held_rows = split_rows(source.digests, held_out=count, seed=0)
        if quarantine is not None:
            good = rows_left(source.digests, source.keys, _of_part(quarantine, name))
            rows, held_rows, left_out = rows[good[rows]], held_rows[good[held_rows]], left_out + int((~good).sum())
        parts[name] = Part(source.heights[rows], source.widths[rows], rows + start, source.shards[rows], weight)
        held.append(held_rows + start)
        start += len(source)
    where = ", ".join(origin.root for origin in origins.values())
    data = Opened(whole, parts, whole, np.concatenate(held), where)
    if quarantine is None:
        return data
    return data._replace(
        quarantine=f"{section.quarantine} (version {quarantine.version})",
        excluded=quarantine.fingerprint,
        quarantined=left_out,
        unknown=len(quarantine.keys) - left_out,
    )


def _opened(section: ShardsData, root: str) -> Shards:
    asked = section.cache
    cache = CacheSettings(
        folder=Path(asked.folder),
        limit_bytes=int(asked.gib * 2**30),
        ahead=asked.ahead,
        fetchers=asked.fetchers,
        retries=asked.retries,
        timeout=asked.timeout,
        storage_options=section.storage_options or {},
    )
    return Shards(root, cache=cache, verify=section.verify)


def _of_part(quarantine: Quarantine, name: str) -> Quarantine:
    """The keys of one part of a mixture, as it knows them itself."""
    if not name:
        return quarantine
    mine = {key.removeprefix(f"{name}/"): why for key, why in quarantine.keys.items() if key.startswith(f"{name}/")}
    return quarantine._replace(keys=mine)
