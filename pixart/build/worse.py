"""Weights to draw with, and those of a worse model for autoguidance, each of any format."""

from pixart.formats import Weights, read
from pixart.formats.positions import Untold
from pixart.formats.weights import objective_of

TOLD = ("in_channels", "text_dim", "num_classes", "size_conditioning")


def read_worse(source: str, weights: str, found: Weights) -> Weights:
    """The weights at ``source``, of a model that may guide another one.

    ``found`` is what was read at ``weights``, the model to be guided. Raises ``ValueError`` where ``source`` cannot be
    read, or is told or predicts something else than the other: its width and depth may differ.
    """
    try:
        other = read_told(source)
    except ValueError as error:
        raise ValueError(f"autoguidance: {error}") from error
    for key in TOLD:
        mine, its = found.model_config[key], other.model_config[key]
        if mine != its:
            raise ValueError(_sentence(source, weights, key, mine, its))
    mine, its = _predicted(found), _predicted(other)
    if mine != its:
        raise ValueError(_sentence(source, weights, "objective", mine, its))
    stamps = [each.snapshot.stamps for each in (found, other) if each.snapshot is not None and each.snapshot.stamps]
    if len(stamps) == 2 and stamps[0] != stamps[1]:
        raise ValueError(
            f"autoguidance={source} was trained with other encoders than {weights}: give an earlier snapshot of the "
            "same run, or weights of another that had the same"
        )
    return other


def read_told(source: str) -> Weights:
    """``read``, with the way out for weights that do not tell enough: drawing has no keys for it."""
    try:
        return read(source)
    except Untold as error:  # what is said once stays in a snapshot
        way = f"python tools/convert.py source={source} to=snapshot out=…"
        raise ValueError(f"{error}; drawing has no such key, so make a snapshot of them first: {way}") from error


def _predicted(weights: Weights) -> dict[str, object]:
    """What the model's guided channels stand for, and its path; a variance is never guided."""
    objective = objective_of(weights)
    keys = ("kind", "shift") if objective["kind"] == "flow" else ("kind", "num_timesteps", "schedule", "prediction")
    return {key: objective.get(key) for key in keys}


def _sentence(source: str, weights: str, key: str, mine: object, its: object) -> str:
    return (
        f"autoguidance={source} has {key} {its} where {weights} has {mine}: give an earlier snapshot of the same run, "
        "or a smaller model that is told the same and predicts the same"
    )
