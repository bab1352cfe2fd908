"""What a run will be, in words and numbers."""

import io
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from pixart.build.reading import RunData
from pixart.config import Config
from pixart.data.planning.report import BucketReport
from pixart.training.loop import Learner
from pixart.training.processes.room import Room, in_words

WIDTH = 110

Rows = Iterator[tuple[str, str]]  # a word, and what there is to say of it


def model_rows(config: Config, learner: Learner, held: int) -> Rows:
    """What learns; ``held`` bytes are sure to be in a device's memory, while activations depend on much else."""
    yield "run", f"stage {config.stage}, scale {config.scale}"
    yield "model", f"{sum(p.numel() for p in learner.bare.parameters()):,} parameters"
    yield "memory", f"{in_words(held)} on each device before activations: weights, gradients, optimizer, averages"


def data_rows(config: Config, data: RunData, first: int) -> Rows:
    """The data, what each bucket gives, and what the steps after step ``first`` will see of it."""
    report, stamps = data.plan.report(), _stamps(data.training.source.stamps)
    yield "data", f"{report.samples:,} samples, fingerprint {data.fingerprint[:12]}{stamps}"
    cell, steps = config.autoencoder.stride * config.model.patch_size, max(0, config.steps - first)
    samples = tokens = 0.0
    for row in report.buckets:
        yield f"bucket {row.bucket.height} x {row.bucket.width}", _bucket(row, steps)
        seen = steps * row.share_of_steps * row.global_batch
        samples, tokens = samples + seen, tokens + seen * (row.bucket.height // cell) * (row.bucket.width // cell)
    passes = steps / report.steps_per_pass
    yield "steps", f"{steps:,} to come, until step {config.steps:,}"
    yield "seen", f"{samples:,.0f} samples, {tokens:,.0f} image tokens, {passes:.3g} passes over the data"


def _bucket(row: BucketReport, steps: int) -> str:
    return (
        f"{row.samples:,} samples in batches of {row.global_batch}: {row.batches_per_pass:,.3g} a pass, "
        f"{steps * row.share_of_steps:,.0f} to come ({row.share_of_steps:.1%} of steps)"
    )


def _stamps(stamps: Any) -> str:
    made = [f"{name} {stamps[name]}" for name in ("autoencoder", "text_encoder") if stamps and stamps[name]]
    return f", stored features of {' and '.join(made)}" if made else ""


def disk_row(room: Room, free: int) -> tuple[str, str]:
    """What will be written."""
    each = f"{in_words(room.checkpoint)} a checkpoint, {in_words(room.snapshot)} a snapshot"
    return "disk", f"{each}, {in_words(room.whole)} to come in all; {in_words(free)} free"


def as_table(rows: Sequence[tuple[str, str]]) -> str:
    """Two columns as text, for a display."""
    table = Table(show_header=False, title="preflight", title_justify="left")
    for row in rows:
        table.add_row(*row)
    console = Console(file=io.StringIO(), width=WIDTH, markup=False, highlight=False)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip()
