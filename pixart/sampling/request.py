"""What is asked of a pipeline: whether it can be drawn, and which pictures are drawn together."""

from collections.abc import Sequence
from typing import Any

Size = tuple[int, int]  # height and width in pixels


def batches(sizes: Sequence[Size], batch_size: int) -> list[list[int]]:
    """Positions grouped by size, sizes in the order they first appear, at most ``batch_size`` a group."""
    if batch_size < 1:
        raise ValueError(f"batch_size: {batch_size} must be at least 1")
    by_size: dict[Size, list[int]] = {}
    for position, (height, width) in enumerate(sizes):
        by_size.setdefault((height, width), []).append(position)
    return [
        group[start : start + batch_size] for group in by_size.values() for start in range(0, len(group), batch_size)
    ]


def check_words(
    model_config: dict[str, Any],
    *,
    prompts: Sequence[str] | None,
    labels: Sequence[int] | None,
    text_encoder_dim: int | None,
) -> None:
    """``ValueError`` unless prompts and labels are what the model is told, labels in range, and the encoder its own.

    Args:
        model_config: with ``text_dim`` and ``num_classes``, None for what the model does not take.
        prompts: or None.
        labels: or None.
        text_encoder_dim: width of the text encoder's states, None where there is no encoder.
    """
    text_dim, num_classes = model_config["text_dim"], model_config["num_classes"]
    if prompts is not None and text_dim is None:
        raise ValueError("prompts: these weights know no text; give labels instead")
    if labels is not None and num_classes is None:
        raise ValueError("labels: these weights know no classes; give prompts instead")
    if text_dim is not None:
        _check_text(prompts, text_dim, text_encoder_dim)
    elif num_classes is not None and labels is None:
        raise ValueError("labels: these weights draw from classes and need them")
    for label in labels or ():
        if not 0 <= label < num_classes:
            raise ValueError(f"labels: {label} is not a class of these weights, which know 0 to {num_classes - 1}")


def check_numbers(count: int, cell: int, *, seeds: Sequence[int], sizes: Sequence[Size]) -> None:
    """``ValueError`` unless there are one seed and one size for each of ``count`` pictures, in whole patches.

    Args:
        count: of prompts or labels.
        cell: pixels per side of a patch: the autoencoder's stride times the model's patch size.
        seeds: of the pictures.
        sizes: (height, width) in pixels.
    """
    if not count:
        raise ValueError("prompts: there are none to draw; give at least one prompt or label")
    for name, given in (("seeds", seeds), ("sizes", sizes)):
        if len(given) != count:
            raise ValueError(f"{name}: {len(given)} of them for {count} pictures; give one each")
    for height, width in sizes:
        if min(height, width) < cell or height % cell or width % cell:
            raise ValueError(
                f"size {height} x {width}: both sides must be multiples of {cell} pixels; give other height and width"
            )


def _check_text(prompts: Sequence[str] | None, text_dim: int, text_encoder_dim: int | None) -> None:
    if prompts is None:
        raise ValueError("prompts: these weights draw from text and need them")
    if text_encoder_dim is None:
        raise ValueError("text_encoder: these weights draw from text and need the encoder they were trained with")
    if text_encoder_dim != text_dim:
        raise ValueError(
            f"text_encoder: its states are {text_encoder_dim} wide, these weights take {text_dim}; "
            f"give the encoder they were trained with"
        )
