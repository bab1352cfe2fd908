"""Examples: what a global batch of the plan holds, drawn position by position, cut into micro-batches."""

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pixart.batch import Batch, places_of
from pixart.data.buckets import Bucket
from pixart.data.cuts import Cut, cuts
from pixart.data.features import null_states
from pixart.data.planning.plan import PlannedBatch
from pixart.data.randomness import Use, generator, uniforms
from pixart.data.source import Sample, Source
from pixart.data.stored import caption_count, moments_of, padded_ids, states_of
from pixart.data.substitutes import Read, read_all, read_or_substitute
from pixart.data.transforms import fit, normalised_batch

__all__ = ["Batches", "Cut", "Examples", "Tokenize", "cuts"]

Tokenize = Callable[[Sequence[str]], list[list[int]]]


class Batches(Protocol):
    """What numbers global batches: ``Plan`` for training, ``Once`` for validation."""

    buckets: tuple[Bucket, ...]

    def batch(self, k: int) -> PlannedBatch:
        """The rows of global batch ``k``."""

    def global_batch(self, k: int) -> int:
        """How many they are."""

    def substitute(self, k: int, position: int, attempt: int) -> int:
        """Another row for a position of global batch ``k``, of the same bucket; ``attempt`` counts from 1."""


class Examples(Dataset[Batch]):
    """The data set: ``examples[cut]`` is the micro-batch of a cut.

    Everything random about the example at position p of global batch k is a pure function of (seed, k, p): it does
    not depend on the cut, the rank, the worker, or what was read before.
    """

    def __init__(
        self,
        source: Source,
        plan: Batches,
        *,
        seed: int,
        latent_channels: int,
        latent_stride: int,
        posterior_noise: bool,
        tokenize: Tokenize | None,
        max_tokens: int,
        caption_choice: Literal["first", "random"],
        caption_drop: float,
        null_label: int | None,
        label_drop: float,
        size_conditioning: bool,
        aspect_ratio: Literal["exact", "bucket"],
        flip: bool,
        stratified: bool,
    ):
        """Examples of ``source`` in the order of ``plan``.

        ``latent_channels`` and ``latent_stride`` (pixels) shape the noise; ``posterior_noise`` draws the
        autoencoder's as well. ``tokenize`` None means no text; token ids are padded to ``max_tokens``, a fixed length,
        so that a micro-batch never depends on its neighbours. A dropped caption becomes the empty one. ``null_label``
        None means no labels. ``aspect_ratio`` is height / width of the bucket, or its two-decimal key as in the
        official code. Where the source holds features, moments take the place of images and text states that of token
        ids. Raises ``ValueError`` for a bucket whose sides are not multiples of ``latent_stride``, and for a flip of
        stored moments.
        """
        for bucket in plan.buckets:
            if bucket.height % latent_stride or bucket.width % latent_stride:
                raise ValueError(f"bucket {bucket.height}x{bucket.width} is not a multiple of {latent_stride} pixels")
        if _needs_resizing(source, plan.buckets):
            import_module("torchvision.transforms.v2")  # seconds: once here, not in each worker that is forked later
        stamps = source.stamps or {}
        self._stored_moments = stamps.get("autoencoder") is not None
        self._null_states = null_states(stamps) if stamps.get("text_encoder") is not None else None
        if flip and self._stored_moments:
            raise ValueError("data.flip=true mirrors images, and these data hold moments in their place: set it false")
        self.source = source
        self.plan = plan
        self._seed = seed
        self._channels, self._stride = latent_channels, latent_stride
        self._posterior_noise = posterior_noise
        self._tokenize, self._max_tokens = tokenize, max_tokens
        self._caption_choice, self._caption_drop = caption_choice, caption_drop
        self._null_label, self._label_drop = null_label, label_drop
        self._size_conditioning, self._aspect_ratio = size_conditioning, aspect_ratio
        self._flip = flip
        self._stratified = stratified

    def __getitem__(self, cut: Cut) -> Batch:
        """The micro-batch of N = stop - start examples of one bucket; ``NothingLeft`` where one cannot be had."""
        planned = self.plan.batch(cut.k)
        positions = range(cut.start, cut.stop)
        read = read_all(partial(self._read, planned, position) for position in positions)
        samples = [one.sample for one in read]
        u = uniforms(self._seed, cut.k, len(planned.rows), self._stratified)[cut.start : cut.stop]
        size, aspect_ratio = self._sizes(np.array([one.row for one in read]), planned.bucket)
        return Batch(
            noise=self._normal(cut, planned.bucket, "noise"),
            u=torch.from_numpy(u.copy()),
            keys=tuple(sample.key for sample in samples),
            posterior_noise=self._normal(cut, planned.bucket, "posterior") if self._posterior_noise else None,
            label=self._labels(samples, cut),
            size=size,
            aspect_ratio=aspect_ratio,
            faults=tuple(fault for one in read for fault in one.faults),
            **self._pictures(samples, cut, planned.bucket),
            **self._text(samples, cut),
        )

    def _read(self, planned: PlannedBatch, position: int) -> Read:
        row = int(planned.rows[position])
        return read_or_substitute(self.source.read, row, self.plan.substitute, k=planned.k, position=position)

    def _pictures(self, samples: list[Sample], cut: Cut, bucket: Bucket) -> dict[str, Tensor]:
        """Images (N, 3, height, width), or moments (N, 2C, H, W) where these are stored."""
        if self._stored_moments:
            return {"moments": moments_of(samples, shape=(2 * self._channels, *self._latent_size(bucket)))}
        images = (self._image(sample, cut.k, p, bucket) for p, sample in enumerate(samples, start=cut.start))
        return {"images": normalised_batch(images, len(samples), bucket)}

    def _image(self, sample: Sample, k: int, position: int, bucket: Bucket) -> Tensor:
        """(3, height, width) uint8."""
        if sample.image is None:
            raise ValueError(f"{sample.key} has no image, nor moments in its place: prepare or extract the data anew")
        pixels = fit(sample.image, bucket)
        if self._flip and generator(self._seed, k, position, "flip").random() < 0.5:
            return pixels.flip(-1)
        return pixels

    def _latent_size(self, bucket: Bucket) -> tuple[int, int]:
        return bucket.height // self._stride, bucket.width // self._stride

    def _normal(self, cut: Cut, bucket: Bucket, use: Use) -> Tensor:
        """Standard normal numbers (N, C, H, W) float32."""
        shape = (self._channels, *self._latent_size(bucket))
        drawn = [
            generator(self._seed, cut.k, p, use).standard_normal(shape, dtype=np.float32)
            for p in range(cut.start, cut.stop)
        ]
        return torch.from_numpy(np.stack(drawn))

    def _dropped(self, k: int, position: int, share: float) -> bool:
        return share > 0 and generator(self._seed, k, position, "drop").random() < share

    def _text(self, samples: list[Sample], cut: Cut) -> dict[str, Tensor | None]:
        """Text states, or token ids (N, L) int64 padded with 0, and their mask (N, L) with its places (S,)."""
        if self._tokenize is None:
            return {}
        stored = self._null_states is not None
        choices = [self._choice(s, cut.k, p, stored=stored) for p, s in enumerate(samples, start=cut.start)]
        if self._null_states is not None:
            states, scales, mask = states_of(samples, choices, null=self._null_states, max_tokens=self._max_tokens)
            return {"states": states, "state_scales": scales, "mask": mask, "places": places_of(mask)}
        captions = ["" if c is None else s.captions[c] for s, c in zip(samples, choices, strict=True)]
        ids, mask = padded_ids(self._tokenize(captions), [s.key for s in samples], max_tokens=self._max_tokens)
        return {"token_ids": ids, "mask": mask, "places": places_of(mask)}

    def _choice(self, sample: Sample, k: int, position: int, *, stored: bool) -> int | None:
        """Which of its captions a sample is shown with; None where it is dropped."""
        count = caption_count(sample, stored=stored)
        if self._dropped(k, position, self._caption_drop):
            return None
        if self._caption_choice == "first" or count == 1:
            return 0
        return int(generator(self._seed, k, position, "caption").integers(count))

    def _labels(self, samples: list[Sample], cut: Cut) -> Tensor | None:
        """Class indices (N,) int64, the null label where one was dropped."""
        if self._null_label is None:
            return None
        return torch.tensor(
            [self._label(s, cut.k, p, self._null_label) for p, s in enumerate(samples, start=cut.start)]
        )

    def _label(self, sample: Sample, k: int, position: int, null_label: int) -> int:
        if sample.label is None:
            raise ValueError(f"{sample.key} has no label: this data set is for training on captions (stages 2 and 3)")
        if not 0 <= sample.label < null_label:
            raise ValueError(
                f"{sample.key} has label {sample.label}, not one of the {null_label} classes (num_classes)"
            )
        return null_label if self._dropped(k, position, self._label_drop) else sample.label

    def _sizes(self, rows: NDArray[np.int64], bucket: Bucket) -> tuple[Tensor | None, Tensor | None]:
        """Original height and width in pixels (N, 2), and the bucket's aspect ratio (N, 1), float32."""
        if not self._size_conditioning:
            return None, None
        size = np.stack([self.source.heights[rows], self.source.widths[rows]], axis=1).astype(np.float32)
        ratio = bucket.ratio if self._aspect_ratio == "exact" else bucket.key
        return torch.from_numpy(size), torch.full((len(rows), 1), ratio, dtype=torch.float32)


def _needs_resizing(source: Source, buckets: Sequence[Bucket]) -> bool:
    sizes = source.heights.astype(np.int64) << 32 | source.widths
    return not np.isin(sizes, [bucket.height << 32 | bucket.width for bucket in buckets]).all()
