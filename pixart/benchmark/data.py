"""The suite ``data``: latents and text states, images, the plan and the index, each against what it is to beat."""

from collections.abc import Iterator
from typing import Annotated, Self

from pydantic import Field, model_validator

from pixart.benchmark.indexing import index_rates, write_small
from pixart.benchmark.latents import TOKENS, Made, official_latents, our_latents, write_official, write_shards_of
from pixart.benchmark.pictures import our_pictures, webdataset_pictures, write_pictures
from pixart.benchmark.planning import probe, write_columns
from pixart.benchmark.record import Figure
from pixart.benchmark.suites import Run
from pixart.benchmark.timing import Contender, Spread, interleaved, one_core
from pixart.config import Positive, Section

SUITE = "data"


class Settings(Section):
    """The keys of ``configs/suite/data.yaml``."""

    batch: Positive
    feature_samples: Positive
    token_lengths: tuple[Annotated[int, Field(gt=0, le=TOKENS)], ...]
    pictures: Positive
    side: Positive
    plan_samples: Positive
    plan_shards: Positive
    plan_batches: tuple[Positive, ...]
    plan_ks: tuple[int, ...]
    index_samples: Positive
    index_rounds: Positive

    @model_validator(mode="after")
    def _whole_batches(self) -> Self:
        for key in ("feature_samples", "pictures"):
            if getattr(self, key) < self.batch:
                raise ValueError(f"{key}={getattr(self, key)} is no batch of {self.batch}: give as many or more")
        return self


def measure(settings: Settings, run: Run) -> Iterator[Figure]:
    """All figures of the suite, on one core."""
    with one_core():
        for length in settings.token_lengths:
            yield from _latents(settings, run, length)
        yield from _pictures(settings, run)
        yield from _plan(settings, run)
        yield from _index(settings, run)


def _latents(settings: Settings, run: Run, length: int) -> Iterator[Figure]:
    run.say(f"latents and text states of {length} tokens on average")
    made = Made(settings.feature_samples, length=length, seed=run.seed)
    folder = run.folder / f"latents_{length}"
    write_official(folder / "official", made)
    contenders: dict[str, Contender] = {"official layout": official_latents(folder / "official", batch=settings.batch)}
    for dtype in ("int8", "bfloat16"):
        write_shards_of(folder / dtype, made, dtype=dtype)
        contenders[f"ours, {dtype}"] = our_latents(folder / dtype, batch=settings.batch, seed=run.seed)
    targets = {"ours, int8": ">= 10", "ours, bfloat16": None}
    yield from _compared(run, f"latents and {length} tokens", contenders, targets)


def _pictures(settings: Settings, run: Run) -> Iterator[Figure]:
    run.say(f"{settings.pictures} pictures to {settings.side} pixels")
    folder = run.folder / "pictures"
    write_pictures(folder, settings.pictures, seed=run.seed)
    side, batch = settings.side, settings.batch
    contenders = {
        "webdataset": webdataset_pictures(folder, side=side, batch=batch),
        "ours": our_pictures(folder, side=side, batch=batch, seed=run.seed),
    }
    yield from _compared(run, f"images to {side} px", contenders, {"ours": ">= 1"})


def _compared(
    run: Run, what: str, contenders: dict[str, Contender], targets: dict[str, str | None]
) -> Iterator[Figure]:
    """Rates of all, and the ratio of each that has a target, or None for none, to the first."""
    times = interleaved(contenders, rounds=run.rounds, seed=run.seed)
    against = next(iter(contenders))
    for name in contenders:
        yield Figure.spread(SUITE, f"{what}: {name}", times.rate(name), "samples/s on one core")
    for name, target in targets.items():
        yield Figure.spread(
            SUITE, f"{what}: {name} against {against}", times.ratio(name, against), "times as fast", target
        )
        processor = times.processor_ratio(name, against)
        yield Figure.spread(SUITE, f"{what}: {name} against {against}, processor time", processor, "times as fast")


def _plan(settings: Settings, run: Run) -> Iterator[Figure]:
    millions = f"plan of {settings.plan_samples / 1e6:g} M samples, 40 buckets, {settings.plan_shards} shards"
    run.say(millions)
    folder = run.folder / "columns"
    write_columns(folder, samples=settings.plan_samples, shards=settings.plan_shards, seed=run.seed)
    probes = {
        (size, k): probe(folder, global_batch=size, k=k, order_cache=None)
        for size in settings.plan_batches
        for k in settings.plan_ks
    }
    opened = max(found.open_seconds for found in probes.values())
    yield Figure(SUITE, f"{millions}: opening", opened, "s", target="<= 10")
    peak = max(found.peak_mib for found in probes.values())
    yield Figure(SUITE, f"{millions}: peak memory of the process", peak, "MiB", target="<= 1024")
    warm = [probe(folder, global_batch=settings.plan_batches[0], k=0, order_cache=run.folder / "order") for _ in (1, 2)]
    yield Figure(SUITE, f"{millions}: opening with its order kept on disk", warm[1].open_seconds, "s")
    for (size, k), found in probes.items():
        yield Figure(SUITE, f"batch of {size} at k = {k:,}: first in a fresh process", found.first_ms, "ms")
        yield Figure(SUITE, f"batch of {size} at k = {k:,}: from then on", found.batch_ms, "ms")


def _index(settings: Settings, run: Run) -> Iterator[Figure]:
    run.say(f"index of {settings.index_samples} samples")
    folder = run.folder / "small"
    write_small(folder, settings.index_samples)
    rounds = settings.index_rounds
    for checksums in (False, True):
        words = "headers and text" if not checksums else "every byte, checksums"
        small, _ = index_rates(folder, checksums=checksums, rounds=rounds)
        yield _rate(f"index of small samples, {words}", small, "rows/s on one core")
    rows, megabytes = index_rates(run.folder / "pictures", checksums=True, rounds=rounds)
    yield _rate("index of pictures, every byte, checksums", rows, "rows/s on one core")
    yield _rate("index of pictures, every byte, checksums", megabytes, "MB/s on one core")


def _rate(name: str, spread: Spread, unit: str) -> Figure:
    return Figure.spread(SUITE, name, spread, unit)
