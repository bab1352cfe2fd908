"""The columns of a batch: stored moments and text states, or token ids, of N samples."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixart.data.features import Features, dequantised, null_states, padded
from pixart.data.source import Sample

States = tuple[NDArray[np.int8] | NDArray[np.uint16], NDArray[np.float32] | None]  # (L, D), and scales (L,) for int8


def moments_of(samples: Sequence[Sample], *, shape: tuple[int, int, int]) -> Tensor:
    """The moments (N, 2C, H, W) float16 of ``samples``; ``ValueError`` where one's are not of ``shape``."""
    stacked = []
    for sample in samples:
        moments = _features(sample).moments
        if moments is None or moments.shape != shape:
            found = "none" if moments is None else "x".join(map(str, moments.shape))
            raise ValueError(
                f"{sample.key}: moments of {'x'.join(map(str, shape))} were to be stored, and there are {found}: "
                "extract the features anew, with the buckets and the autoencoder of this run"
            )
        stacked.append(moments)
    return torch.from_numpy(np.stack(stacked))


def caption_count(sample: Sample, *, stored: bool) -> int:
    """How many captions a sample has, or text states where these are stored; ``ValueError`` where none."""
    count = len(_features(sample).states) if stored else len(sample.captions)
    if count == 0:
        raise ValueError(f"{sample.key} has no caption: this data set is for training on labels (stage 1)")
    return count


def padded_ids(token_ids: Sequence[Sequence[int]], keys: Sequence[str], *, max_tokens: int) -> tuple[Tensor, Tensor]:
    """Token ids (N, L) int64 padded with 0, and their mask (N, L); ``ValueError`` with the key of one too long."""
    ids = np.zeros((len(token_ids), max_tokens), dtype=np.int64)
    mask = np.zeros(ids.shape, dtype=bool)
    for i, tokens in enumerate(token_ids):
        if len(tokens) > max_tokens:
            raise ValueError(f"{keys[i]}: {len(tokens)} tokens where max_tokens is {max_tokens}")
        ids[i, : len(tokens)] = tokens
        mask[i, : len(tokens)] = True
    return torch.from_numpy(ids), torch.from_numpy(mask)


def states_of(
    samples: Sequence[Sample], choices: Sequence[int | None], *, null: States, max_tokens: int
) -> tuple[Tensor, Tensor | None, Tensor]:
    """States (N, L, D), scales (N, L, 1) or None and mask (N, L) of the caption ``choices`` (N,); None is ``null``."""
    taken = [
        null if choice is None else _states(sample, choice) for sample, choice in zip(samples, choices, strict=True)
    ]
    scales = [scale for _, scale in taken if scale is not None]
    return padded([states for states, _ in taken], scales, max_tokens=max_tokens)


def null_caption(stamps: Mapping[str, Any]) -> Tensor:
    """The states (L, D) float32 of the empty caption, as a batch of the features with ``stamps`` would have them."""
    states, scales = null_states(stamps)
    values, factors, _ = padded([states], [] if scales is None else [scales], max_tokens=len(states))
    return dequantised(values, factors)[0]


def _states(sample: Sample, choice: int) -> States:
    features = _features(sample)
    return features.states[choice], features.scales[choice] if features.scales else None


def _features(sample: Sample) -> Features:
    if sample.features is None:
        raise ValueError(f"{sample.key} has no features, and others have: extract them for the whole data set")
    return sample.features
