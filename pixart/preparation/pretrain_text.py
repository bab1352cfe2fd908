"""Pre-trains the packaged text encoder: a miniature T5 by span corruption, its decoder thrown away afterwards.

A random T5 is close to a bag of words; what the training buys is measured by ``pixart.preparation.text_probes``.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixart.preparation.span_corruption import PAD, Corruption, Masked, Vocabulary, documents, mask, previous


class Size(NamedTuple):
    """The shape of the miniature; the decoder is one layer deep, so that the encoder must do the work."""

    dim: int
    num_layers: int
    num_heads: int
    ff_dim: int


class Training(NamedTuple):
    """What is trained on, and how."""

    steps: int
    batch_size: int  # documents
    captions: Sequence[int]  # how many a document may hold
    faithful: float  # share of captions that say what the others of their document say
    mixture: Sequence[Corruption]
    lr: float
    position_lr: float
    warmup_steps: int
    clip: float
    seed: int


def make_model(size: Size, vocabulary: Vocabulary, *, seed: int) -> Any:
    """A ``T5ForConditionalGeneration`` with fresh weights: T5 v1.1's gated GELU, T5 v1.0's tied embeddings."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(seed)
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(vocabulary.tokenizer),
            d_model=size.dim,
            d_kv=size.dim // size.num_heads,
            d_ff=size.ff_dim,
            num_layers=size.num_layers,
            num_decoder_layers=1,
            num_heads=size.num_heads,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,  # documents never repeat
            tie_word_embeddings=True,
            decoder_start_token_id=PAD,
        )
    )


def predict(model: Any, masked: Masked) -> Tensor:
    """Logits (N, M, V) of each target token, given the source and the target tokens before it."""
    return model(
        input_ids=masked.source,
        attention_mask=masked.source_mask.long(),
        decoder_input_ids=previous(masked.target),
    ).logits


def _optimizer(model: nn.Module, how: Training) -> torch.optim.Optimizer:
    """AdamW with a rate of its own for the relative positions.

    They start near zero and must grow to several units before any head can look at a neighbour; at the common rate the
    loss after 600 steps is twice as high (docs/text_encoder.md).
    """
    named = list(model.named_parameters())
    positions = [p for name, p in named if "relative_attention_bias" in name]
    rest = [p for name, p in named if "relative_attention_bias" not in name]
    groups = [{"params": rest, "peak": how.lr}, {"params": positions, "peak": how.position_lr}]
    return torch.optim.AdamW(groups, lr=how.lr, betas=(0.9, 0.98), weight_decay=0.0)


def _share_of_peak(step: int, how: Training) -> float:
    """A linear warm-up under half a cosine to zero."""
    return min(1.0, (step + 1) / how.warmup_steps) * 0.5 * (1 + math.cos(math.pi * step / how.steps))


def pretrain(model: Any, vocabulary: Vocabulary, how: Training, *, progress: Callable[[int, float], None]) -> None:
    """Trains ``model`` in place; step k sees documents k * batch_size to (k + 1) * batch_size.

    ``progress`` is called with the step and its loss (nats per target token) after each step. The same arguments give
    the same bits on the same machine and number of threads.
    """
    optimizer = _optimizer(model, how)
    model.train()
    for step in range(how.steps):
        start = step * how.batch_size
        texts = documents(start, start + how.batch_size, seed=how.seed, captions=how.captions, faithful=how.faithful)
        rng = np.random.Generator(np.random.Philox(key=np.array((how.seed, step), np.uint64)))
        masked = mask(list(texts), vocabulary, how.mixture, rng)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * _share_of_peak(step, how)
        loss = F.cross_entropy(predict(model, masked)[masked.target_mask], masked.target[masked.target_mask])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), how.clip)
        optimizer.step()
        optimizer.zero_grad()
        progress(step, loss.item())
    model.eval()


def save_encoder(model: Any, vocabulary: Vocabulary, folder: Path) -> None:
    """Writes the encoder half in float32, its config and its tokenizer, as transformers reads them."""
    from transformers import T5EncoderModel

    encoder = T5EncoderModel(model.config)
    encoder.shared.load_state_dict(model.shared.state_dict())
    encoder.encoder.load_state_dict(model.encoder.state_dict())
    encoder.save_pretrained(folder)
    vocabulary.tokenizer.save_pretrained(folder)
