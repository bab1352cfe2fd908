"""What a run reads: its sources, its plan, and the examples of both, trained on and held out."""

import hashlib
import json
from collections.abc import Callable, Generator, Iterator

from accelerate import Accelerator
from torch import Tensor

from pixart.batch import Batch
from pixart.build.opening import Opened
from pixart.config import Config
from pixart.data.buckets import buckets_for
from pixart.data.cuts import cuts
from pixart.data.dataset import Examples
from pixart.data.loading import Step, loader
from pixart.data.planning.plan import Plan
from pixart.data.planning.validation import Once
from pixart.data.source import Source
from pixart.data.stamps import refuse_foreign
from pixart.data.stored import null_caption
from pixart.encoders.autoencoder import LatentSpace
from pixart.encoders.text import TextEncoder

FOREVER = 2**62


def refuse_foreign_features(
    config: Config, data: Opened, plan: Plan, encoder: TextEncoder | None, latents: LatentSpace
) -> None:
    """``ValueError`` with the mend where stored features are not those that this run would make."""
    stamps = data.source.stamps
    if not stamps:
        return
    refuse_foreign(
        stamps,
        data.where,
        autoencoder=latents.fingerprint,
        text_encoder=None if encoder is None else encoder.fingerprint,
        buckets=buckets_for(config.resolution, config.data.buckets),
        distance=config.data.bucket_distance,
    )
    merged = [row.bucket for row in plan.report().buckets if row.merged]
    if merged and stamps["autoencoder"] is not None:
        raise ValueError(
            f"buckets smaller than their batch would be merged into {merged[0].height}x{merged[0].width}, and stored "
            "moments keep their size: set data.small_buckets=repeat, a smaller global_batch, or other buckets"
        )


def examples(config: Config, source: Source, plan: Plan | Once, encoder: TextEncoder | None, latents: LatentSpace,
             *, training: bool) -> Examples:  # fmt: skip
    """The examples of a plan; held-out ones keep their captions and labels, and are never mirrored."""
    section = config.data
    return Examples(
        source,
        plan,
        seed=config.seed,
        latent_channels=latents.channels,
        latent_stride=latents.stride,
        posterior_noise=latents.stochastic and config.autoencoder.posterior == "drawn",
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

    def __init__(self, config: Config, data: Opened, encoder: TextEncoder | None, latents: LatentSpace, *, plan: Plan):
        """All that can be refused before the first step is refused here, with a ``ValueError``."""
        self.config = config
        self.plan = plan
        refuse_foreign_features(config, data, self.plan, encoder, latents)
        self.training = examples(config, data.source, self.plan, encoder, latents, training=True)
        self.quarantine = data.quarantine
        self._stamps = data.source.stamps if data.stored_text else None
        words = (self.plan.fingerprint, data.source.fingerprint, data.held_source.fingerprint, data.excluded)
        self.fingerprint = hashlib.sha256(json.dumps(words).encode()).hexdigest()
        self.once: Once | None = None
        if len(data.held_rows):
            self.once = Once(
                data.held_source.heights[data.held_rows],
                data.held_source.widths[data.held_rows],
                buckets=buckets_for(config.resolution, config.data.buckets),
                global_batch=len(data.held_rows),  # a whole bucket: what is random does not depend on how it is cut
                distance=config.data.bucket_distance,
                rows=data.held_rows,
            )
            self.validation = examples(config, data.held_source, self.once, encoder, latents, training=False)

    def null_caption(self, encoder: TextEncoder) -> Tensor:
        """The states (L, D) of the empty caption: those that are stored, or else the text encoder's."""
        return encoder([""])[0][0] if self._stamps is None else null_caption(self._stamps)

    def held_out(self, accelerator: Accelerator) -> Callable[[], Iterator[Batch]] | None:
        """This rank's batches of the validation pass, anew at each call; None where nothing is held out."""
        if self.once is None:
            return None
        once, micro_batch = self.once, self.config.micro_batch
        pieces = [
            cut
            for k in once.ks
            for cut in cuts(once.global_batch(k), micro_batch=micro_batch, world_size=1, rank=0, k=k)
        ]
        mine = pieces[accelerator.process_index :: accelerator.num_processes]

        def batches() -> Iterator[Batch]:
            return (self.validation[cut] for cut in mine)

        return batches


def read_batches(
    config: Config, accelerator: Accelerator, training: Examples, first_k: int
) -> Generator[Step, None, None]:
    """This rank's share of the global batches from ``first_k`` on, without end."""
    return loader(
        training,
        range(first_k, FOREVER),
        micro_batch=config.micro_batch,
        world_size=accelerator.num_processes,
        rank=accelerator.process_index,
        num_workers=config.data.workers,
        pin_memory=accelerator.device.type == "cuda",
        ahead=config.data.cache.ahead if config.data.kind == "shards" and training.source.far else 0,
    )
