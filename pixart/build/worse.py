"""The worse model of autoguidance, from weights of any format, next to those that it is to guide."""

from torch import nn

from pixart.build.remembered import remember
from pixart.formats import Weights, read
from pixart.formats.reading import build
from pixart.formats.weights import run_config

TOLD = ("in_channels", "text_dim", "num_classes", "size_conditioning")


def read_worse(source: str, weights: str, found: Weights) -> nn.Module:
    """The model at ``source``, on the CPU in float32 and in evaluation mode.

    ``found`` is what was read at ``weights``, the model to be guided. Raises ``ValueError`` where ``source`` cannot be
    read, or is told or predicts something else than the other: its width and depth may differ.
    """
    other = read(source)
    for key in TOLD:
        mine, its = found.model_config[key], other.model_config[key]
        if mine != its:
            raise ValueError(_sentence(source, weights, key, mine, its))
    if found.snapshot is not None and other.snapshot is not None:
        mine, its = _predicted(weights, found), _predicted(source, other)
        if mine != its:
            raise ValueError(_sentence(source, weights, "objective", mine, its))
        if found.snapshot.stamps != other.snapshot.stamps:
            raise ValueError(
                f"autoguidance={source} was trained with other encoders than {weights}: give an earlier snapshot of "
                "the same run, or weights of another that had the same"
            )
    return build(other)


def _predicted(source: str, weights: Weights) -> dict[str, object]:
    """What the model's guided channels stand for; a variance is never guided."""
    return remember(source, run_config(weights)).objective.model_dump(exclude={"learned_variance"})


def _sentence(source: str, weights: str, key: str, mine: object, its: object) -> str:
    return (
        f"autoguidance={source} has {key} {its} where {weights} has {mine}: give an earlier snapshot of the same run, "
        "or a smaller model that is told the same and predicts the same"
    )
