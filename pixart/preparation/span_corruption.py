"""T5's own objective on a toy language: documents of captions, a word-level tokenizer, and spans that are masked.

One caption says each thing once, so a masked word in it can only be guessed. A document here is several captions of
the same scene, in other words and another order: what is masked in one stands in another, and is found there only by
knowing which colour belongs to which shape and which shape lies where. That is what the states must carry.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pixart.data.embedded.captions import SENTENCES, WORDS, Target, dense_caption, sentence, sparse_caption, target_of
from pixart.data.embedded.scenes import Lots, draw_scene
from pixart.encoders.text import pad

DOCUMENT_STREAM = 3  # of the random numbers of scenes; 0 to 2 belong to the data set
PAD, END = 0, 1  # as in every T5 vocabulary; 2 is <unk>
STOP = "."  # between the captions of a document


class Corruption(NamedTuple):
    """How much of a document is masked, in spans of which mean length (arXiv 1910.10683, section 3.1.4)."""

    density: float
    mean_span: float


class Vocabulary(NamedTuple):
    """The tokenizer, and its table for words that are known to be in it."""

    tokenizer: Any
    ids: dict[str, int]
    sentinels: tuple[int, ...]

    def encode(self, document: str) -> list[int]:
        """The ids of a document's words, without the end token."""
        return [self.ids[word] for word in document.split()]


class Masked(NamedTuple):
    """N corrupted documents, padded."""

    source: Tensor  # (N, L) int64, a sentinel in the place of each span
    source_mask: Tensor  # (N, L) bool
    target: Tensor  # (N, M) int64, each sentinel followed by what it hides
    target_mask: Tensor  # (N, M) bool


def make_vocabulary(num_sentinels: int) -> Vocabulary:
    """A word-level T5 tokenizer for the words of Shapes: <pad> 0, </s> 1, <unk> 2, words, sentinels last."""
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    words = [(f"\u2581{word}", -3.0) for word in (*sorted(WORDS), STOP, ",")]
    glued = [(STOP, -6.0), (",", -6.0)]  # as people write them, behind a word
    tokenizer = T5Tokenizer(vocab=[*special, *words, *glued], extra_ids=num_sentinels)
    ids = {word: tokenizer.convert_tokens_to_ids(f"\u2581{word}") for word in (*WORDS, STOP)}
    sentinels = tuple(tokenizer.convert_tokens_to_ids(f"<extra_id_{i}>") for i in range(num_sentinels))
    return Vocabulary(tokenizer, ids, sentinels)


def _said(target: Target, lots: Lots) -> str:
    unlike = len(target.objects) == 2
    return sentence(target, form=lots.one_of(range(len(SENTENCES))), swapped=unlike and lots.one_of((False, True)))


def documents(start: int, stop: int, *, seed: int, captions: Sequence[int], faithful: float) -> Iterator[str]:
    """Documents ``start`` to ``stop``, each of one training scene, in so many captions as ``captions`` lets it draw.

    A document has a target, all there is to say or what the scene's task is about; a caption says the target in one of
    its wordings with probability ``faithful``, and is one of the data set's own captions else. No scene holds a
    combination that the data set holds out.
    """
    for index in range(start, stop):
        lots = Lots(seed, index, stream=DOCUMENT_STREAM)
        scene = draw_scene(lots)
        target = target_of(scene, full=lots.one_of((False, True)))
        yield f" {STOP} ".join(
            _said(target, lots)
            if lots.between(0, 1) < faithful
            else lots.one_of((dense_caption, sparse_caption))(scene, lots)
            for _ in range(lots.one_of(captions))
        )


def documents_about(targets: Sequence[Target], *, seed: int) -> Iterator[str]:
    """One document of two captions for each target: for combinations that no scene may hold."""
    for index, target in enumerate(targets):
        lots = Lots(seed, index, stream=DOCUMENT_STREAM)
        yield f"{_said(target, lots)} {STOP} {_said(target, lots)}"


def _parts(total: int, count: int, rng: np.random.Generator) -> list[int]:
    """``total`` as a sum of ``count`` positive lengths, each such sum as likely; 0 is the sum of one nothing."""
    if count == 1:
        return [total]
    cuts = np.sort(rng.choice(total - 1, count - 1, replace=False) + 1)
    return np.diff([0, *cuts, total]).tolist()


def corrupt(
    ids: Sequence[int], how: Corruption, sentinels: Sequence[int], rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    """The ``ids`` of a document with sentinels for some spans, and each sentinel with its span; both end with END.

    Spans and what stands between them alternate; which of the two comes first is drawn. A lone word is masked.
    """
    noise = max(min(round(len(ids) * how.density), len(ids) - 1), 1)
    spans = max(min(round(noise / how.mean_span), noise, len(ids) - noise, len(sentinels) - 1), 1)
    hidden_first = int(rng.integers(2))
    source: list[int] = []
    target: list[int] = []
    rest = list(ids)
    for sentinel, *lengths in zip(
        sentinels, _parts(noise, spans, rng), _parts(len(ids) - noise, spans, rng), strict=False
    ):
        for turn in (hidden_first, 1 - hidden_first):
            piece, rest = rest[: lengths[1 - turn]], rest[lengths[1 - turn] :]
            source += [sentinel] if turn else piece
            target += [sentinel, *piece] if turn else []
    return [*source, END], [*target, sentinels[spans], END]


def mask(
    texts: Sequence[str], vocabulary: Vocabulary, mixture: Sequence[Corruption], rng: np.random.Generator
) -> Masked:
    """Each text corrupted in one of the ways of the mixture, all equally likely."""
    pairs = [
        corrupt(vocabulary.encode(text), mixture[int(rng.integers(len(mixture)))], vocabulary.sentinels, rng)
        for text in texts
    ]
    return Masked(*pad([source for source, _ in pairs]), *pad([target for _, target in pairs]))


def previous(target: Tensor) -> Tensor:
    """What the decoder has read when it writes each token of ``target`` (N, M): PAD first, then the one before."""
    return torch.cat([torch.full_like(target[:, :1], PAD), target[:, :-1]], dim=1)  # (N, M)
