"""Stamps: who made stored features, and how. They stand in the index, and a run compares them with its own encoders."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixart.data.buckets import Bucket, Distance
from pixart.data.features import StatesDtype, pack

STAMPS_VERSION = 1


def make_stamps(
    *,
    autoencoder: str | None,
    text_encoder: str | None,
    buckets: Sequence[Bucket],
    distance: Distance,
    states: StatesDtype,
    null_caption: NDArray[np.float32] | None,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """The stamps of features made by the encoders of these fingerprints; None for one that made nothing.

    ``null_caption`` (L, D): the states of the empty caption, which stand in for those that training drops. ``about``
    is for people: nothing compares it.
    """
    packed = None if null_caption is None else pack(None, [null_caption], dtype=states)
    return {
        "version": STAMPS_VERSION,
        "autoencoder": autoencoder,
        "text_encoder": text_encoder,
        "buckets": [list(bucket) for bucket in buckets],
        "distance": distance,
        "null_caption": None if packed is None else base64.b64encode(packed).decode(),
        **about,
    }


def refuse_foreign(
    stamps: Mapping[str, Any],
    where: str,
    *,
    autoencoder: str,
    text_encoder: str | None,
    buckets: Sequence[Bucket],
    distance: Distance,
) -> None:
    """``ValueError`` with the mend unless the features of ``where`` are those that this run would make.

    ``autoencoder`` and ``text_encoder`` are the fingerprints of the run's own, the second None where it takes no text.
    """
    mend = "make them anew with tools/extract.py"
    if stamps.get("version") != STAMPS_VERSION:
        raise ValueError(
            f"the features in {where} are of version {stamps.get('version')}, not {STAMPS_VERSION}: {mend}"
        )
    for kind, own in (("autoencoder", autoencoder), ("text_encoder", text_encoder)):
        if stamps[kind] is not None and own is not None and stamps[kind] != own:
            raise ValueError(
                f"the features in {where} were made by another {kind} (stamp {stamps[kind]}, this run's is {own}): "
                f"set {kind} as it was then, or {mend}"
            )
    if text_encoder is not None and stamps["autoencoder"] is not None and stamps["text_encoder"] is None:
        raise ValueError(f"the features in {where} hold no text states, which this run needs: {mend}")
    if stamps["autoencoder"] is None:
        return
    if stamps["buckets"] != [list(bucket) for bucket in buckets] or stamps["distance"] != distance:
        raise ValueError(
            f"the features in {where} were fitted to {len(stamps['buckets'])} buckets by {stamps['distance']} distance "
            "and this run has others: set resolution, data.buckets and data.bucket_distance as they were then, or "
            f"{mend}"
        )
