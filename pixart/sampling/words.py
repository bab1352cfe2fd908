"""What the model is told about the pictures asked for, and the null words that guidance leads away from."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from pixart.batch import Conditioning
from pixart.data.buckets import Bucket
from pixart.encoders.text import CaptionEncoder
from pixart.sampling.request import Size

NullMask = Literal["own", "prompt"]
ToldRatio = Literal["exact", "bucket"]


class Words:
    """Makes the conditioning of a model, on the CPU.

    Args:
        model_config: keyword arguments that the model was made with.
        text_encoder: for a model with text, else None.
        null_caption: (L0, D) text states of "no caption"; None takes the text encoder's of the empty one.
        null_mask: which of its rows are attended to: ``own`` all of them, ``prompt`` as many as the prompt beside it
            has tokens, as in the official sampler.
        told_aspect_ratio: height / width as it is (``exact``) or to two decimals (``bucket``, the official key).

    Raises:
        ValueError: no null mask or ratio of that name.
    """

    def __init__(
        self,
        model_config: dict[str, Any],
        text_encoder: CaptionEncoder | None,
        *,
        null_caption: Tensor | None,
        null_mask: NullMask,
        told_aspect_ratio: ToldRatio,
    ) -> None:
        for name, value, known in (
            ("null_mask", null_mask, ("own", "prompt")),
            ("told_aspect_ratio", told_aspect_ratio, ("exact", "bucket")),
        ):
            if value not in known:
                raise ValueError(f"{name}: '{value}' is not one of {', '.join(known)}")
        self.model_config = model_config
        self.text_encoder = text_encoder
        self.null_mask = null_mask
        self.told_aspect_ratio = told_aspect_ratio
        self._null_caption = null_caption

    def asked(
        self, count: int, size: Size, *, prompts: Sequence[str] | None, labels: Sequence[int] | None
    ) -> Conditioning:
        """``count`` = N rows for pictures drawn at ``size`` in pixels, of N prompts or N labels where there are any."""
        cond = self._size_words(count, size)
        if prompts is not None:
            assert self.text_encoder is not None
            tokens, mask = self.text_encoder(prompts)  # (N, L, D), (N, L)
            cond = cond._replace(tokens=tokens, mask=mask)
        if labels is not None:
            cond = cond._replace(label=torch.tensor(labels))
        return cond

    def nothing(self, asked: Conditioning) -> Conditioning:
        """The null words beside ``asked``: sizes stay, they are known whether or not anything is asked for.

        Raises:
            ValueError: a null caption shorter than the prompts whose mask it is to have.
        """
        if asked.tokens is not None:
            tokens, mask = self._null_text(asked)
            asked = asked._replace(tokens=tokens, mask=mask)
        if asked.label is not None:
            asked = asked._replace(label=torch.full_like(asked.label, self.model_config["num_classes"]))
        return asked

    def _null_text(self, asked: Conditioning) -> tuple[Tensor, Tensor]:
        assert asked.mask is not None
        states = self._null_states()
        count, longest = asked.mask.shape
        if self.null_mask == "own":
            return states.expand(count, -1, -1), torch.ones(count, len(states), dtype=torch.bool)  # (N, L0, D), (N, L0)
        if len(states) < longest:
            raise ValueError(
                f"null_mask: 'prompt' needs a null caption as long as the prompts, {longest} tokens, and this one has "
                f"{len(states)}; set null_mask=own"
            )
        return states[:longest].expand(count, -1, -1), asked.mask  # (N, L, D), (N, L)

    def _size_words(self, count: int, size: Size) -> Conditioning:
        if not self.model_config["size_conditioning"]:
            return Conditioning()
        height, width = size
        bucket = Bucket(height, width)
        ratio = bucket.ratio if self.told_aspect_ratio == "exact" else bucket.key
        return Conditioning(
            size=torch.tensor([[height, width]], dtype=torch.float32).expand(count, 2),
            aspect_ratio=torch.tensor([[ratio]], dtype=torch.float32).expand(count, 1),
        )

    def _null_states(self) -> Tensor:
        """(L0, D) states of no caption, asked of the text encoder once."""
        if self._null_caption is None:
            assert self.text_encoder is not None
            states, mask = self.text_encoder([""])  # (1, L0, D), (1, L0)
            self._null_caption = states[0, mask[0]]
        return self._null_caption
