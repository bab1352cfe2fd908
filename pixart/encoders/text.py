"""Captions to text states: a frozen T5 encoder with its tokenizer (paper section 2.2: 120 tokens of a T5-XXL)."""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pixart.encoders.clean import Cleaning
from pixart.encoders.eight_bit import read_eight_bit
from pixart.encoders.source import find_folder, fingerprint, readable, refuse_missing, require
from pixart.encoders.tokenizer import Tokenizer

MINIATURES = {"shapes-t5": Path(__file__).parent / "shapes_t5"}  # packaged, nothing to download
KEY = "text_encoder.source"
TOKENIZER_FILES = ("tokenizer*.json", "spiece.model", "special_tokens_map.json", "added_tokens.json")
WEIGHT_FILES = ("config.json", "model*.safetensors")


def pad(token_ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ragged token ids as (N, L) int64 padded with 0, and their mask (N, L) bool, True = real."""
    length = max(len(ids) for ids in token_ids)
    tokens = torch.tensor([[*ids, *[0] * (length - len(ids))] for ids in token_ids])
    mask = torch.tensor([[True] * len(ids) + [False] * (length - len(ids)) for ids in token_ids])
    return tokens, mask


class CaptionEncoder(Protocol):
    """What drawing knows of a text encoder."""

    dim: int  # D of a state
    tokenizer: Tokenizer  # what it reads captions by

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """N captions -> states (N, L, D) float32 and mask (N, L) bool, True = real."""


class TextEncoder:
    """A frozen T5 encoder: ``encoder(captions)`` gives states and mask.

    ``read(device)`` brings its weights, to that device, when they are first needed. ``dim`` is the width D of a state,
    ``dtype`` that of the weights. In float16 transformers keeps the second feed-forward matrix ``wo`` in float32,
    because T5's activations overflow there; bfloat16 needs no such care. States leave as float32 in any case.
    """

    def __init__(
        self,
        read: Callable[[torch.device], nn.Module],
        tokenizer: Tokenizer,
        *,
        dim: int,
        files: Sequence[Path],
        dtype: torch.dtype,
    ):
        self._read = read
        self.tokenizer = tokenizer
        self.dim = dim
        self.files = tuple(files)
        self.dtype = dtype
        self.device = torch.device("cpu")  # where the weights lie, or will

    @cached_property
    def model(self) -> Any:
        """The T5 itself."""
        return self._read(self.device).eval().requires_grad_(False)

    @property
    def max_tokens(self) -> int:
        """The most tokens a caption keeps, end token included."""
        return self.tokenizer.max_tokens

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with config, tokenizer, weights, max_tokens, cleaning or dtype; else never."""
        return fingerprint(
            self.files, max_tokens=self.max_tokens, cleaning=self.tokenizer.cleaning, dtype=str(self.dtype)
        )

    def to(self, device: torch.device | str) -> "TextEncoder":
        """Moves the weights, or says where they will go; returns itself."""
        self.device = torch.device(device)
        if "model" in self.__dict__:
            self.model.to(self.device)
        return self

    def release(self) -> None:
        """Let the weights go; whoever encodes again reads them again."""
        self.__dict__.pop("model", None)

    def tokenize(self, captions: Sequence[str]) -> list[list[int]]:
        """Token ids of each caption, cleaned and truncated, at true length (``Tokenizer.tokenize``)."""
        return self.tokenizer.tokenize(captions)

    @torch.no_grad()
    def encode(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        """``token_ids`` (N, L) int64 and ``mask`` (N, L) bool, True = real -> states (N, L, D) float32.

        Padding is zero in the result and has no influence on real tokens; a row that is all padding is all zeros.
        """
        token_ids, mask = token_ids.to(self.device), mask.to(self.device)
        # A softmax over nothing is NaN: a row without a real token looks at all of its padding and is zeroed below.
        visible = mask | ~mask.any(dim=1, keepdim=True)  # (N, L)
        with torch.autocast(self.device.type, enabled=False):  # the states must not depend on who calls
            additive = _additive_mask(visible, self.model.dtype)  # (N, 1, 1, L)
            states = self.model(input_ids=token_ids, attention_mask=additive).last_hidden_state  # (N, L, D)
        return states.float().masked_fill(~mask[..., None], 0.0)

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """States (N, L, D) float32 and mask (N, L) bool of N captions; L is the longest one's length."""
        token_ids, mask = pad(self.tokenize(captions))
        return self.encode(token_ids, mask), mask.to(self.device)


def _additive_mask(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, L) bool -> (N, 1, 1, L), what is added to attention's scores: 0, or what leaves nothing of one.

    Of a mask (N, L) transformers asks on the host whether all of it is real, which waits for the device; one of four
    dimensions it takes as it is.
    """
    return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)[:, None, None]


def _files(folder: Path) -> tuple[Path, Path, list[Path]]:
    """The folder of the weights, that of the tokenizer (beside it in pipelines, else the same), and their files."""
    weights = folder / "text_encoder" if (folder / "text_encoder").is_dir() else folder
    tokenizer = folder / "tokenizer" if (folder / "tokenizer").is_dir() else weights
    mend = "T5EncoderModel.from_pretrained(...).save_pretrained(folder) writes one (pickled .bin files are never read)"
    files = require(weights, WEIGHT_FILES, key=KEY, mend=mend)
    vocabulary = [file for pattern in TOKENIZER_FILES for file in sorted(tokenizer.glob(pattern))]
    if not any(file.name in ("tokenizer.json", "spiece.model") for file in vocabulary):
        raise ValueError(
            f"{KEY}: {tokenizer} holds neither tokenizer.json nor spiece.model; copy the T5 tokenizer there"
        )
    return weights, tokenizer, [*files, *vocabulary]


def load_tokenizer(source: str, *, max_tokens: int, cleaning: Cleaning) -> Tokenizer:
    """Only the tokenizer of ``source``, without its weights; errors as ``load_text_encoder``."""
    _, tokenizer, _ = _files(_folder(source))
    return Tokenizer(tokenizer, max_tokens=max_tokens, cleaning=cleaning)


def _folder(source: str) -> Path:
    if source in MINIATURES:
        return MINIATURES[source]
    patterns = [
        f"{prefix}{name}"
        for prefix in ("", "text_encoder/", "tokenizer/")
        for name in (*WEIGHT_FILES, *TOKENIZER_FILES)
    ]
    return find_folder(source, key=KEY, files=[*patterns, "*model.safetensors.index.json"])


def _read(folder: Path, dtype: torch.dtype, device: torch.device) -> nn.Module:
    from transformers import T5EncoderModel
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # several processes load at once, each would draw its own
    try:
        with readable(folder, key=KEY, kind="T5 encoder"):
            model, report = T5EncoderModel.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
            )
    finally:
        if shown:
            logging.enable_progress_bar()
    refuse_missing(report["missing_keys"], folder, key=KEY)
    return model.to(device)


def _read_dim(folder: Path) -> int:
    from transformers import T5Config

    with readable(folder, key=KEY, kind="T5 encoder"):
        return int(T5Config.from_pretrained(folder, local_files_only=True).d_model)


def load_text_encoder(
    source: str,
    *,
    max_tokens: int,
    cleaning: Cleaning,
    dtype: torch.dtype,
    defer: bool = False,
    eight_bit: bool = False,
) -> TextEncoder:
    """The frozen T5 of ``source``: "shapes-t5" (packaged miniature), a local folder, or a hub name.

    A folder holds config.json, safetensors and tokenizer files, or has them in ``text_encoder/`` and ``tokenizer/``.
    With ``defer`` the weights are read when the first caption is encoded, which may be never; ``eight_bit`` keeps those
    of its linear layers in 8 bit, for states that are off by about 1 % (the fingerprint stays that of the whole one).
    Raises ``ValueError``
    naming ``text_encoder.source`` where something is missing or unreadable.
    """
    weights, tokenizer, files = _files(_folder(source))
    encoder = TextEncoder(
        partial(read_eight_bit if eight_bit else _read, weights, dtype),
        Tokenizer(tokenizer, max_tokens=max_tokens, cleaning=cleaning),
        dim=_read_dim(weights),
        files=files,
        dtype=dtype,
    )
    if not defer:
        encoder.model  # noqa: B018  read now
    return encoder
