"""What a run reads: its sources, its plan, and the examples of both, trained on and held out."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray

from pixart.batch import Batch
from pixart.config import Config
from pixart.data.buckets import buckets_for
from pixart.data.dataset import Examples
from pixart.data.loading import Step, loader
from pixart.data.plan import Part, Plan
from pixart.data.source import Source
from pixart.data.validation import Once, split_rows
from pixart.encoders.autoencoder import LatentSpace
from pixart.encoders.text import TextEncoder

FOREVER = 2**62


def sources(config: Config) -> tuple[Source, NDArray[np.int64], Source, NDArray[np.int64]]:
    """The data to train on and those held out, each as a source and its rows."""
    section = config.data
    if section.kind == "shards":
        from pixart.data.shards import Shards

        assert section.root is not None, "the configuration was validated"
        shards: Any = Shards(section.root)
        rows, held_out = split_rows(map(shards.key, range(len(shards))), held_out=section.validation_samples, seed=0)
        return shards, rows, shards, held_out
    from pixart.data.shapes import Shapes

    def shapes(split: Any, num_samples: int) -> Shapes:
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
    training, validation = shapes("train", section.num_samples), shapes("validation", max(1, held))
    return training, np.arange(len(training)), validation, np.arange(held)


def examples(config: Config, source: Source, plan: Any, encoder: TextEncoder | None, latents: LatentSpace,
             *, training: bool) -> Examples:  # fmt: skip
    """The examples of a plan; held-out ones keep their captions and labels, and are never mirrored."""
    section = config.data
    return Examples(
        source,
        plan,
        seed=config.seed,
        latent_channels=latents.channels,
        latent_stride=latents.stride,
        posterior_noise=latents.stochastic,
        tokenize=None if encoder is None else encoder.tokenizer.tokenize,
        max_tokens=0 if encoder is None else encoder.max_tokens,
        caption_choice=section.caption_choice,
        caption_drop=section.caption_drop if training else 0.0,
        null_label=section.num_classes,
        label_drop=section.label_drop if training else 0.0,
        size_conditioning=config.model.size_conditioning,
        aspect_ratio=section.aspect_ratio,
        flip=section.flip and training,
        stratified=section.stratified,
    )


class RunData:
    """What the run reads: the plan's examples, and those held out of it."""

    def __init__(self, config: Config, encoder: TextEncoder | None, latents: LatentSpace):
        self.config = config
        source, rows, held_source, held_rows = sources(config)
        buckets = buckets_for(config.resolution, config.data.buckets)
        distance = config.data.bucket_distance
        self.plan = Plan(
            [Part(source.heights[rows], source.widths[rows], rows)],
            buckets=buckets,
            global_batch=config.global_batch,
            seed=config.seed,
            small_buckets=config.data.small_buckets,
            distance=distance,
            streams=1,
            window=1,
        )
        self.fingerprint, self.quarantine = self.plan.fingerprint, None
        self.training = examples(config, source, self.plan, encoder, latents, training=True)
        self.once: Once | None = None
        if len(held_rows):
            self.once = Once(
                held_source.heights[held_rows],
                held_source.widths[held_rows],
                buckets=buckets,
                global_batch=config.micro_batch,
                distance=distance,
                rows=held_rows,
            )
            self.validation = examples(config, held_source, self.once, encoder, latents, training=False)

    def held_out(self, accelerator: Accelerator) -> Callable[[], Iterator[Batch]] | None:
        """This rank's batches of the validation pass, anew at each call; None where nothing is held out."""
        if self.once is None:
            return None
        ks = self.once.ks[accelerator.process_index :: accelerator.num_processes]

        def batches() -> Iterator[Batch]:
            for step in loader(
                self.validation,
                ks,
                micro_batch=self.config.micro_batch,
                world_size=1,
                rank=0,
                num_workers=0,
                pin_memory=False,
            ):
                yield from step.batches

        return batches


def read_batches(config: Config, accelerator: Accelerator, training: Examples, first_k: int) -> Iterator[Step]:
    """This rank's share of the global batches from ``first_k`` on, without end."""
    return loader(
        training,
        range(first_k, FOREVER),
        micro_batch=config.micro_batch,
        world_size=accelerator.num_processes,
        rank=accelerator.process_index,
        num_workers=config.data.workers,
        pin_memory=accelerator.device.type == "cuda",
    )
