"""Encoded images from tars to batches of pixels: our reader, and a plain webdataset pipeline over the same tars."""

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pixart.benchmark.timing import Contender
from pixart.data.buckets import Bucket
from pixart.data.dataset import Examples
from pixart.data.loading import loader
from pixart.data.planning.plan import Part, Plan
from pixart.data.source import Source
from pixart.data.storage.indexing import build_index
from pixart.data.storage.shards import Encoded, Shards, write_shards
from pixart.data.transforms import fit, normalised

_SIZES = ((768, 1024), (1024, 768), (896, 896), (683, 1024))  # height, width in pixels
_OCTAVES = ((4, 2), (16, 4), (64, 8), (256, 16), (1024, 24))  # cells on 1024 pixels, and what their contrast is cut by
_QUALITY = 90
_SHARD = 64  # pictures in a tar
FOREVER = range(2**62)


def write_pictures(folder: Path, count: int, *, seed: int) -> None:
    """Tars of ``count`` captioned JPEGs of about a megapixel and photographs' share of detail, with their index."""
    folder.mkdir(parents=True)
    write_shards(folder, (_picture(i, seed) for i in range(count)), shard_size=_SHARD)
    build_index(folder)


def _picture(number: int, seed: int) -> Encoded:
    rng = np.random.default_rng((seed, number))
    height, width = _SIZES[number % len(_SIZES)]
    pixels = np.zeros((height, width, 3), np.float32)
    for cells, cut in _OCTAVES:
        noise = rng.integers(0, 256, (height * cells // 1024, width * cells // 1024, 3), dtype=np.uint8)
        scaled = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        pixels += np.asarray(scaled, np.float32) / cut
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=_QUALITY)
    about = {"height": height, "width": width}
    return Encoded(f"{number:06d}", "jpg", buffer.getvalue(), (f"picture {number}",), None, about)


def examples_of(source: Source, *, side: int, batch: int, max_tokens: int, seed: int) -> Examples:
    """Everything that training reads of ``source``, noise included: one bucket of ``side`` pixels, ``batch`` a step."""
    plan = Plan(
        [Part(source.heights, source.widths, shards=source.shards)],
        buckets=(Bucket(side, side),),
        global_batch=batch,
        seed=seed,
        small_buckets="refuse",
        distance="linear",
        streams=1,
        window=16,
    )
    return Examples(
        source,
        plan,
        seed=seed,
        latent_channels=4,
        latent_stride=8,
        posterior_noise=True,
        tokenize=_never if source.stamps else None,
        max_tokens=max_tokens,
        caption_choice="first",
        caption_drop=0.1 if source.stamps else 0.0,
        null_label=None,
        label_drop=0.0,
        size_conditioning=True,
        aspect_ratio="exact",
        flip=False,
        stratified=True,
    )


def _never(captions: Sequence[str]) -> list[list[int]]:
    raise AssertionError(f"stored states need no tokens of {captions}")


def our_examples(examples: Examples, *, batch: int) -> Contender:
    """One micro-batch of ``examples`` at a time through the loader, in this process."""
    steps = loader(
        examples, FOREVER, micro_batch=batch, world_size=1, rank=0, num_workers=0, pin_memory=False
    )  # fmt: skip
    return lambda: sum(len(made.keys) for made in next(steps).batches)


def our_pictures(folder: Path, *, side: int, batch: int, seed: int) -> Contender:
    """Batches of the pictures in ``folder``, by our reader."""
    return our_examples(examples_of(Shards(folder), side=side, batch=batch, max_tokens=0, seed=seed), batch=batch)


def webdataset_pictures(folder: Path, *, side: int, batch: int) -> Contender:
    """The same by webdataset's own pipeline and decoder, in the order of the tars, with our resizing and cropping."""
    import webdataset

    def fitted(pixels: Any) -> Tensor:
        return normalised(fit(pixels, Bucket(side, side)))

    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    pipeline = (
        webdataset.WebDataset(urls, shardshuffle=False)
        .decode("rgb8")
        .to_tuple("jpg", "txt")
        .map_tuple(fitted, str)
        .batched(batch, partial=False)
    )
    batches = _endless(pipeline)

    def work() -> int:
        images, _ = next(batches)
        assert images.shape[1:] == (3, side, side)
        assert images.dtype == torch.float32
        return len(images)

    return work


def _endless(pipeline: Iterable[tuple[Tensor, list[str]]]) -> Iterator[tuple[Tensor, list[str]]]:
    while True:
        yield from pipeline
