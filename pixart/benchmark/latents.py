"""Stored latents and text states to batches: our reader, and the official layout of a file of each for every sample."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pixart.benchmark.pictures import examples_of, our_examples
from pixart.benchmark.timing import Contender
from pixart.data.buckets import Bucket
from pixart.data.features import FEATURES_EXTENSION, StatesDtype, pack
from pixart.data.stamps import make_stamps
from pixart.data.storage.indexing import build_index
from pixart.data.storage.shards import Shards

_CHANNELS, _SIDE = 4, 32  # of the latents of 256 pixels
TOKENS, _DIM = 120, 4096  # of T5-XXL
_PIXELS = 256


class Made:
    """Samples as encoders would give them: bfloat16 states of 120 tokens, ``length`` of them real on average."""

    def __init__(self, count: int, *, length: int, seed: int):
        self.count, self._seed = count, seed
        spread = min(length - 1, TOKENS - length)
        rng = np.random.default_rng((seed, length))
        self.lengths = rng.integers(length - spread, length + spread, count, endpoint=True)  # (count,)

    def moments(self, i: int) -> NDArray[np.float32]:
        """(8, 32, 32), exact in float16."""
        rng = np.random.default_rng((self._seed, i, 0))
        drawn = rng.standard_normal((2 * _CHANNELS, _SIDE, _SIDE), dtype=np.float32)
        return drawn.astype(np.float16).astype(np.float32)

    def states(self, i: int) -> NDArray[np.float32]:
        """(120, 4096) float32 with the mantissa of bfloat16; the encoder fills the padding too."""
        rng = np.random.default_rng((self._seed, i, 1))
        drawn = rng.standard_normal((TOKENS, _DIM), dtype=np.float32)
        return (drawn.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def write_shards_of(folder: Path, made: Made, *, dtype: StatesDtype) -> None:
    """One tar of features as ``tools/extract.py`` writes them, with its index."""
    from webdataset import TarWriter

    folder.mkdir(parents=True)
    about = json.dumps({"height": _PIXELS, "width": _PIXELS}).encode()
    with TarWriter(str(folder / "000000.tar"), encoder=False, mtime=0) as writer:
        for i in range(made.count):
            features = pack(made.moments(i), [made.states(i)[: made.lengths[i]]], dtype=dtype)
            key = f"{i:06d}"
            writer.write({"__key__": key, "json": about, "txt": key.encode(), FEATURES_EXTENSION: features})
    stamps = make_stamps(
        autoencoder="made up",
        text_encoder="made up",
        buckets=[Bucket(_PIXELS, _PIXELS)],
        distance="linear",
        states=dtype,
        null_caption=made.states(made.count)[:1],
        about={},
    )
    build_index(folder, stamps=stamps)


def write_official(folder: Path, made: Made) -> None:
    """The same as the official extraction stores it: float32 throughout, text padded to 120 tokens and compressed."""
    folder.mkdir(parents=True)
    for i in range(made.count):
        mask = (np.arange(TOKENS) < made.lengths[i]).astype(np.int64)
        np.savez_compressed(folder / f"{i}.npz", caption_feature=made.states(i)[None], attention_mask=mask[None])
        np.save(folder / f"{i}.npy", made.moments(i))


def our_latents(folder: Path, *, batch: int, seed: int) -> Contender:
    """Batches of the features in ``folder``, by our reader."""
    return our_examples(
        examples_of(Shards(folder), side=_PIXELS, batch=batch, max_tokens=TOKENS, seed=seed), batch=batch
    )


class _Official(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """A draw of the latents, the states and their mask, from two files for each sample."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._count = len(list(folder.glob("*.npy")))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        mean, std = torch.from_numpy(np.load(self._folder / f"{i}.npy")).chunk(2)  # (4, 32, 32) each
        text = np.load(self._folder / f"{i}.npz")
        states, mask = text["caption_feature"], text["attention_mask"]  # (1, 120, 4096), (1, 120)
        return mean + std * torch.randn_like(mean), torch.from_numpy(states), torch.from_numpy(mask)


def official_latents(folder: Path, *, batch: int) -> Contender:
    """Shuffled batches from the official layout, by torch's loader in this process."""
    loader: DataLoader[Any] = DataLoader(_Official(folder), batch_size=batch, shuffle=True, drop_last=True)
    batches = _endless(loader)
    return lambda: len(next(batches)[0])


def _endless(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader
