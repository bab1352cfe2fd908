"""Captions that were encoded beforehand, in place of their encoder, which can go."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pixart.encoders.text import CaptionEncoder


class Recalled:
    """What ``encoder`` says of ``captions``, one at a time, kept on the CPU; of others it knows nothing (KeyError)."""

    def __init__(self, encoder: CaptionEncoder, captions: Sequence[str]) -> None:
        self.dim, self.tokenizer = encoder.dim, encoder.tokenizer
        self._states = {caption: _real(encoder, caption) for caption in dict.fromkeys(captions)}  # (L, D) each

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """States (N, L, D) float32 and mask (N, L) bool of N captions; L is the longest one's length."""
        states = [self._states[caption] for caption in captions]
        mask = pad_sequence([torch.ones(len(one), dtype=torch.bool) for one in states], batch_first=True)
        return pad_sequence(states, batch_first=True), mask


def _real(encoder: CaptionEncoder, caption: str) -> Tensor:
    states, mask = encoder([caption])
    return states[0, mask[0]].cpu()
