"""Captions to token ids, light enough for a loader's worker: no weights, read on first use, repetitions cached."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from pixart.encoders.clean import CLEANINGS, Cleaning, clean

CACHED_CAPTIONS = 16384  # at 120 tokens and 8 bytes about 16 MB a worker


class Unread(NamedTuple):
    """What an encoder never sees of some captions."""

    unknown: tuple[str, ...]  # words that it has no token for, each once, in the order they come
    with_unknown: int  # captions that have one
    cut: int  # captions that are longer than it reads


class Tokenizer:
    """The tokenizer of a T5 folder with cleaning in front and truncation behind.

    Picklable: a worker gets the folder's name and reads the files itself, once.
    """

    def __init__(self, folder: Path, *, max_tokens: int, cleaning: Cleaning):
        if cleaning not in CLEANINGS:
            raise ValueError(f"text_encoder.cleaning: '{cleaning}' is unknown; choose one of {', '.join(CLEANINGS)}")
        if max_tokens < 1:
            raise ValueError(f"text_encoder.max_tokens: {max_tokens} leaves no room for the end token; give 1 or more")
        self.folder, self.max_tokens, self.cleaning = folder, max_tokens, cleaning
        self._forget()

    def _forget(self) -> None:
        self._backend: Any = None
        self._cached = lru_cache(maxsize=CACHED_CAPTIONS)(self._token_ids)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "max_tokens": self.max_tokens, "cleaning": self.cleaning}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    @property
    def backend(self) -> Any:
        """The transformers tokenizer itself."""
        if self._backend is None:
            from transformers import AutoTokenizer

            self._backend = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        return self._backend

    def _token_ids(self, caption: str) -> tuple[int, ...]:
        text = clean(caption, self.cleaning)
        return tuple(self.backend(text, truncation=True, max_length=self.max_tokens)["input_ids"])

    def unread(self, captions: Sequence[str]) -> Unread:
        """What is lost of ``captions``, cleaned, on the way to their token ids."""
        unknown: dict[str, None] = {}
        with_unknown = cut = 0
        for caption in captions:
            text = clean(caption, self.cleaning)
            told = self.backend(text, return_offsets_mapping=True)
            spans = zip(told["input_ids"], told["offset_mapping"], strict=True)
            found = [text[slice(*span)].strip() for token, span in spans if token == self.backend.unk_token_id]
            unknown |= dict.fromkeys(found)
            with_unknown += bool(found)
            cut += len(told["input_ids"]) > self.max_tokens
        return Unread(tuple(unknown), with_unknown, cut)

    def tokenize(self, captions: Sequence[str]) -> list[list[int]]:
        """Token ids of each caption at its true length: at most ``max_tokens``, the last one always the end token."""
        return [list(self._cached(caption)) for caption in captions]
