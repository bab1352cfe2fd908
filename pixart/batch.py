"""The words that the rooms share: what a denoiser is told (``Conditioning``) and what a loader hands over (``Batch``).

Letters used throughout: N batch, C latent channels, H W height and width (of latents unless said otherwise),
L caption tokens, D width of a token.
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class Conditioning(NamedTuple):
    """What the denoiser is told about each of N images; ``None`` for what the model does not take."""

    tokens: Tensor | None = None  # (N, L, D) text states
    mask: Tensor | None = None  # (N, L) bool, True = real token
    size: Tensor | None = None  # (N, 2) height and width in pixels of the original image, float32
    aspect_ratio: Tensor | None = None  # (N, 1) height / width, float32
    label: Tensor | None = None  # (N,) int64; the row after the last class is the null label
    places: Tensor | None = None  # (S,) int64, ``places_of(mask)`` where the host knew the mask; None where it did not

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Conditioning":
        """The same words on ``device``."""
        return Conditioning(*(None if x is None else x.to(device, non_blocking=non_blocking) for x in self))


def concatenate(first: Conditioning, second: Conditioning) -> Conditioning:
    """Two batches of conditioning as one of N1 + N2 rows; the shorter captions are padded with masked tokens."""
    longest = max(c.tokens.shape[1] for c in (first, second) if c.tokens is not None) if first.tokens is not None else 0

    if first.places is None or second.places is None:  # they only save work
        first, second = first._replace(places=None), second._replace(places=None)
    elif first.mask is not None:
        second = _in_rows_of(second, longest, len(first.mask))
        first = _in_rows_of(first, longest, 0)

    def padded(x: Tensor, name: str) -> Tensor:
        if name not in ("tokens", "mask"):
            return x
        missing = longest - x.shape[1]
        return F.pad(x, (0, 0, 0, missing) if name == "tokens" else (0, missing))

    joined: dict[str, Tensor | None] = {}
    for name, a, b in zip(Conditioning._fields, first, second, strict=True):
        if (a is None) != (b is None):
            raise ValueError(f"cannot join conditionings: only one of the two holds '{name}'")
        joined[name] = None if a is None or b is None else torch.cat([padded(a, name), padded(b, name)])
    return Conditioning(**joined)


def _in_rows_of(cond: Conditioning, length: int, first_row: int) -> Conditioning:
    """``cond`` with its places as they are in rows of ``length`` tokens, its first row being ``first_row``."""
    assert cond.mask is not None
    assert cond.places is not None
    own = cond.mask.shape[1]
    rows, columns = cond.places // own, cond.places % own
    return cond._replace(places=(rows + first_row) * length + columns)


def places_of(mask: Tensor) -> Tensor:
    """Where among N * L tokens those lie that attention looks at: (S,) int64, N <= S <= N * L, ascending.

    They are the real ones of ``mask`` (N, L), and of a caption that has none its first: so that no row is left empty.
    How many there are is read on the host: on a GPU that waits for all that was asked of it before.
    """
    nothing = ~mask.any(dim=1, keepdim=True)  # (N, 1)
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    return (mask | (nothing & first)).flatten().nonzero().squeeze(1)


class Fault(NamedTuple):
    """A sample that could not be used, and where in training another took its place."""

    k: int  # global batch
    position: int  # in it
    key: str
    reason: str


class Batch(NamedTuple):
    """One micro-batch of one bucket: everything random about it was drawn by the loader (see ``pixart.data``)."""

    noise: Tensor  # (N, C, H, W) float32, the target of the diffusion
    u: Tensor  # (N,) float64 in [0, 1), made into a timestep by the objective
    keys: tuple[str, ...]  # N names of samples
    images: Tensor | None = None  # (N, 3, height, width) float32 in [-1, 1]; or
    moments: Tensor | None = None  # (N, 2C, H, W) float16 mean and std of the autoencoder's posterior, stored
    posterior_noise: Tensor | None = None  # (N, C, H, W) float32, None for a deterministic autoencoder
    token_ids: Tensor | None = None  # (N, L) int64, padded with 0; or
    states: Tensor | None = None  # (N, L, D) text states, stored: bfloat16, or int8 with
    state_scales: Tensor | None = None  # (N, L, 1) float32, what each token's states are to be multiplied by
    mask: Tensor | None = None  # (N, L) bool, True = real token
    label: Tensor | None = None  # (N,) int64
    size: Tensor | None = None  # (N, 2) float32
    aspect_ratio: Tensor | None = None  # (N, 1) float32
    faults: tuple[Fault, ...] = ()  # the samples that others stand in for
    places: Tensor | None = None  # (S,) int64, ``places_of(mask)``

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The same batch on ``device``; keys stay where they are."""
        moved: dict[str, Any] = {
            name: x.to(device, non_blocking=non_blocking) for name, x in self._asdict().items() if isinstance(x, Tensor)
        }
        return self._replace(**moved)


class Denoiser(Protocol):
    """The signature in which models and diffusion meet."""

    def __call__(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """``x_t`` (N, C, H, W), ``t`` (N,) -> (N, C or 2C, H, W)."""
