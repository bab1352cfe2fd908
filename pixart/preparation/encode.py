"""Samples to members of a features shard: read and fitted by workers, encoded in batches of one bucket."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from pixart.data.buckets import Bucket, Distance, assign
from pixart.data.features import FEATURES_EXTENSION, StatesDtype, pack
from pixart.data.source import BadSample, Source
from pixart.data.stamps import make_stamps
from pixart.data.transforms import fit, normalised_batch
from pixart.encoders.autoencoder import LatentSpace
from pixart.encoders.text import TextEncoder, pad

_AHEAD = 16  # samples that each worker may hold ready


class Prepared(NamedTuple):
    """A sample that was read, its image fitted to its bucket."""

    key: str
    pixels: NDArray[np.uint8]  # (3, height, width); as a tensor it would cross to this process in a file of its own
    captions: tuple[str, ...]
    label: int | None
    height: int  # pixels of the image as it was: what the model is told
    width: int


class Encoders(NamedTuple):
    """What makes features, and how they are stored."""

    latents: LatentSpace
    text: TextEncoder | None  # None: moments alone, for training on labels
    buckets: tuple[Bucket, ...]
    distance: Distance
    states: StatesDtype
    batch: int  # images, and captions, that are encoded at once

    def stamps(self) -> dict[str, Any]:
        """Who makes these features, and how; see ``pixart.data.stamps``."""
        text = self.text
        about: dict[str, Any] = {"latent_channels": self.latents.channels, "latent_stride": self.latents.stride}
        if text is not None:
            about |= {"states": self.states, "dim": text.dim, "max_tokens": text.max_tokens}
            about |= {"cleaning": text.tokenizer.cleaning, "text_dtype": str(text.dtype).removeprefix("torch.")}
        return make_stamps(
            autoencoder=self.latents.fingerprint,
            text_encoder=None if text is None else text.fingerprint,
            buckets=self.buckets,
            distance=self.distance,
            states=self.states,
            null_caption=None if text is None else _states(text, [""], 1)[0],
            about=about,
        )


class _Fitted(Dataset[Prepared | tuple[str, str]]):
    """Row -> the sample, or its key and why it has no features."""

    def __init__(self, source: Source, encoders: Encoders):
        self._source = source
        self._buckets, self._distance = encoders.buckets, encoders.distance
        self._captioned = encoders.text is not None

    def __getitem__(self, row: int) -> Prepared | tuple[str, str]:
        height, width = int(self._source.heights[row]), int(self._source.widths[row])
        place = assign(np.array([height]), np.array([width]), buckets=self._buckets, distance=self._distance)[0]
        try:
            sample = self._source.read(row)
        except BadSample as bad:
            return bad.key, bad.reason
        if sample.image is None:
            return sample.key, "no image"
        if self._captioned and not sample.captions:
            return sample.key, "no caption"
        pixels = fit(sample.image, self._buckets[place]).numpy()
        return Prepared(sample.key, pixels, sample.captions, sample.label, height, width)


def prepared(
    source: Source, rows: NDArray[np.int64], encoders: Encoders, *, workers: int
) -> Iterator[Prepared | tuple[str, str]]:
    """The samples of ``rows`` in their order, or key and reason of what has no features; ``workers`` 0 reads here."""
    loader: DataLoader[Any] = DataLoader(
        _Fitted(source, encoders),
        batch_size=None,
        sampler=rows.tolist(),
        collate_fn=_as_it_is,
        num_workers=workers,
        prefetch_factor=_AHEAD if workers else None,
        # A forked child must not touch CUDA that its parent has started.
        multiprocessing_context=("forkserver" if torch.cuda.is_initialized() else "fork") if workers else None,
        generator=torch.Generator(),  # or it would draw from the global one
    )
    yield from loader


def _as_it_is(sample: Any) -> Any:
    return sample


def encoded(samples: Iterable[Prepared], encoders: Encoders) -> Iterator[dict[str, Any]]:
    """The members of each of ``samples``, as webdataset writes them; those of one bucket in the order they came."""
    waiting = defaultdict[tuple[int, ...], list[Prepared]](list)
    for sample in samples:
        group = waiting[tuple(sample.pixels.shape)]
        group.append(sample)
        if len(group) == encoders.batch:
            yield from _members(group, encoders)
            group.clear()
    for group in waiting.values():
        if group:
            yield from _members(group, encoders)


def _members(group: Sequence[Prepared], encoders: Encoders) -> Iterator[dict[str, Any]]:
    bucket = Bucket(*group[0].pixels.shape[1:])
    images = normalised_batch((torch.from_numpy(sample.pixels) for sample in group), len(group), bucket)
    moments = encoders.latents.moments(images).cpu().numpy()  # (N, 2C, H, W)
    states: Iterator[NDArray[np.float32]] = iter(())
    if encoders.text is not None:
        captions = [caption for sample in group for caption in sample.captions]
        states = iter(_states(encoders.text, captions, encoders.batch))
    for sample, own in zip(group, moments, strict=True):
        texts = [] if encoders.text is None else [next(states) for _ in sample.captions]
        try:
            features = pack(own, texts, dtype=encoders.states)
        except ValueError as error:
            raise ValueError(f"{sample.key}: {error}") from error
        yield _beside(sample) | {FEATURES_EXTENSION: features}


def _beside(sample: Prepared) -> dict[str, Any]:
    """The small members that go with the features."""
    about: dict[str, Any] = {"height": sample.height, "width": sample.width}
    if len(sample.captions) > 1:
        about["captions"] = sample.captions
    members: dict[str, Any] = {"__key__": sample.key, "json": json.dumps(about).encode()}
    if sample.captions:
        members["txt"] = sample.captions[0].encode()
    if sample.label is not None:
        members["cls"] = str(sample.label).encode()
    return members


def _states(text: TextEncoder, captions: Sequence[str], batch: int) -> list[NDArray[np.float32]]:
    """The states (L, D) of each caption at its true length."""
    found: list[NDArray[np.float32]] = []
    for start in range(0, len(captions), batch):
        ids = text.tokenize(captions[start : start + batch])
        states = text.encode(*pad(ids)).cpu().numpy()  # (N, longest, D)
        found += [own[: len(tokens)] for own, tokens in zip(states, ids, strict=True)]
    return found
