"""Pre-train the packaged autoencoder anew: ``python tools/pretrain_autoencoder.py out=outputs/shapes_kl``."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pydantic import Field, field_validator

from pixart.aside import refuse_taken
from pixart.config import Positive, Rate, Section, Seed, Share, parse
from pixart.data.embedded.shapes import View
from pixart.door import door
from pixart.preparation.pretrain_autoencoder import Size, Training

Kind = tuple[View, Positive, Positive]


class SizeConfig(Section):
    """``Size``."""

    channels: tuple[Positive, ...] = Field(min_length=1)
    latent_channels: Positive
    norm_groups: Positive


class TrainingConfig(Section):
    """``Training``."""

    steps: Positive
    batch_size: Positive
    pictures: tuple[Kind, ...] = Field(min_length=1)
    kl_start: Rate
    kl_weight: Rate
    kl_ramp: tuple[Share, Share]
    lr: Rate
    matrix_lr: Rate
    warmup_steps: Positive
    clip: Rate

    @field_validator("kl_ramp")
    @classmethod
    def _rises(cls, ramp: tuple[float, float]) -> tuple[float, float]:
        if ramp[0] >= ramp[1]:
            raise ValueError(f"begins at {ramp[0]:g} and ends at {ramp[1]:g}: let it end after it begins")
        return ramp


class ReportConfig(Section):
    """How often a loss is printed, and how many scenes of each kind are measured."""

    every: Positive
    scenes: Positive


class PretrainAutoencoderConfig(Section):
    """The keys of ``configs/pretrain_autoencoder.yaml``."""

    out: str
    seed: Seed
    threads: Positive
    size: SizeConfig
    training: TrainingConfig
    report: ReportConfig


def run(values: dict[str, Any]) -> None:
    """Train, save, and show what it gives back."""
    asked = parse(values, PretrainAutoencoderConfig)
    refuse_taken(Path(asked.out), folder=True)
    import torch

    from pixart.preparation.pretrain_autoencoder import make_autoencoder, pretrain, quality, save, set_scale

    torch.set_num_threads(asked.threads)
    size, how = Size(**asked.size.model_dump()), Training(**asked.training.model_dump(), seed=asked.seed)
    model = make_autoencoder(size, asked.seed)
    pretrain(model, how, progress=lambda *told: show(asked.report.every, *told))
    set_scale(model, how, asked.report.scenes)
    for kind in dict.fromkeys(how.pictures):
        found = quality(model, kind, asked.report.scenes, asked.seed)
        print(
            f"{kind[0]} {kind[1]} x {kind[2]}, held out: {found.psnr:.1f} dB, {100 * found.right:.1f} % read right, "
            f"{found.kl:.1f} nats a latent number"
        )
    save(model, Path(asked.out))


def show(every: int, step: int, error: float, kl: float) -> None:
    """A line now and then."""
    if (step + 1) % every == 0:
        print(f"step {step + 1}: mean absolute error {error:.4f}, {kl:.1f} nats a latent number", flush=True)


if __name__ == "__main__":
    door("pretrain_autoencoder", run)()
