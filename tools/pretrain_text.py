"""Pre-train the packaged text encoder anew: ``python tools/pretrain_text.py out=outputs/shapes_t5``."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.table import Table

from pixart.config import Positive, Rate, Section, Share, parse
from pixart.data.embedded.combinations import Task
from pixart.door import door
from pixart.preparation.pretrain_text import Size, Training
from pixart.preparation.span_corruption import Corruption
from pixart.preparation.text_report import Measures, Report, pretrain_and_report


class SizeConfig(Section):
    """``Size``."""

    dim: Positive
    num_layers: Positive
    num_heads: Positive
    ff_dim: Positive


class CorruptionConfig(Section):
    """``Corruption``."""

    density: Share
    mean_span: Rate


class TrainingConfig(Section):
    """``Training``."""

    steps: Positive
    batch_size: Positive
    captions: tuple[Positive, ...]
    faithful: Share
    mixture: tuple[CorruptionConfig, ...]
    lr: Rate
    position_lr: Rate
    warmup_steps: Positive
    clip: Rate


class ReportConfig(Section):
    """``Measures``, and how often a loss is printed."""

    every: Positive
    fit: dict[Task, Positive]
    score: dict[Task, Positive]
    infilling_per_task: Positive


class PretrainTextConfig(Section):
    """The keys of ``configs/pretrain_text.yaml``."""

    out: str
    seed: int
    threads: Positive
    size: SizeConfig
    num_sentinels: Positive
    training: TrainingConfig
    report: ReportConfig


def run(values: dict[str, Any]) -> None:
    """Train, save, and show what it bought."""
    config = parse(values, PretrainTextConfig)
    console = Console()
    training = config.training.model_dump()
    training["mixture"] = tuple(Corruption(**way) for way in training["mixture"])
    measures = config.report.model_dump()
    every = measures.pop("every")

    def progress(step: int, loss: float) -> None:
        if (step + 1) % every == 0:
            console.print(f"step {step + 1}: {loss:.3f} nats per masked token", highlight=False)

    report = pretrain_and_report(
        Path(config.out),
        size=Size(**config.size.model_dump()),
        training=Training(**training, seed=config.seed),
        measures=Measures(**measures, seed=config.seed + 1),
        num_sentinels=config.num_sentinels,
        threads=config.threads,
        progress=progress,
    )
    show(report, console)
    console.print(f"{config.out}: {report.bytes} bytes", highlight=False, soft_wrap=True)


def show(report: Report, console: Console) -> None:
    """Print the tables of docs/text_encoder.md."""
    for title, columns in report.tables.items():
        table = Table(title, *columns)
        for row in next(iter(columns.values())):
            table.add_row(row, *(f"{100 * column[row]:.1f} %" for column in columns.values()))
        console.print(table)
    console.print(f"states: mean {report.state_mean:.3f}, standard deviation {report.state_std:.3f}", highlight=False)


if __name__ == "__main__":
    door("pretrain_text", run)()
