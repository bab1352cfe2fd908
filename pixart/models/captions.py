"""Only what counts of a batch of captions: most of a padded one is padding, and nothing need be computed of it.

Letters: N batch, L caption tokens, S caption tokens that count in a batch, D width.
"""

import torch
from torch import Tensor

from pixart.batch import Conditioning, places_of

STEP = 32  # tokens; for each number of rows that it meets oneDNN keeps about a MiB of code and memory per product


def located(tokens: Tensor, mask: Tensor, places: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """``tokens`` (N, L, D) and ``mask`` (N, L), on the CPU cut after the longest caption, and the places that count.

    There ``STEP`` places or fewer stay as many; to more come places of padding, up to one more than a multiple.

    Elsewhere all stays as given: to look at a mask on a GPU is to wait for it. So it does while a graph is traced or
    a function transformed, which must not depend on the values of their inputs, and where there are no tokens.
    """
    fixed = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    if mask.device.type != "cpu" or fixed or not mask.shape[1]:
        return tokens, mask, places
    mask = mask.bool()
    longest = max(1, int((mask.any(dim=0) * torch.arange(1, mask.shape[1] + 1)).max()))
    tokens, mask = tokens[:, :longest], mask[:, :longest]
    return tokens, mask, _in_steps(places_of(mask), mask.numel())


def _in_steps(places: Tensor, tokens: int) -> Tensor:
    """``places`` (S,) and as many of the first others of N * L ``tokens`` as make steps, or all; ascending.

    One more than a multiple is no width of a layer: a compiler would take two equal sizes for one.
    """
    missing = (1 - len(places)) % STEP if len(places) > STEP else 0
    others = torch.ones(tokens, dtype=torch.bool).index_fill(0, places, False).nonzero().squeeze(1)
    return torch.cat([places, others[:missing]]).sort().values


def counted(tokens: Tensor, mask: Tensor, places: Tensor | None) -> Tensor:
    """The tokens at ``places``, (N, L, D) -> (S, D), or all (N, L, D); what is not real is 0, whatever lies there."""
    if places is None:
        return tokens.masked_fill(~mask.bool()[..., None], 0.0)
    real = mask.flatten()[places].bool()
    return tokens.flatten(0, 1).index_select(0, places).masked_fill(~real[:, None], 0.0)


def check_told(cond: Conditioning, *, text: bool) -> None:
    """``ValueError`` where ``cond`` lacks the captions of a model with ``text``, or has them for one without."""
    if text and cond.tokens is None:
        raise ValueError("this model is conditioned on text: give cond.tokens (N, L, text_dim) and cond.mask (N, L)")
    if not text and cond.tokens is not None:
        raise ValueError("this model is conditioned on labels: give cond.label (N,), and no cond.tokens")
