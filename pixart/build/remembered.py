"""What drawing needs of the configuration that a snapshot keeps.

Earlier and later versions know other keys, and a picture does not ask how its model was trained: only these are read.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, ValidationError

from pixart.config import Autoencoder, Positive, Rate, Scheduler, Section, Share, Size, TextEncoder
from pixart.diffusion.flow import Flow
from pixart.diffusion.gaussian import Gaussian, Schedule
from pixart.diffusion.objective import Objective
from pixart.diffusion.weighting import Prediction
from pixart.formats import released


class GaussianPath(Section, extra="ignore"):
    """A Gaussian objective without what only its loss asks for."""

    kind: Literal["gaussian"]
    num_timesteps: Positive
    schedule: Schedule
    prediction: Prediction
    learned_variance: bool


class FlowPath(Section, extra="ignore"):
    """Flow matching, likewise."""

    kind: Literal["flow"]
    shift: Annotated[float, Field(gt=0)]


class Data(Section, extra="ignore"):
    """What the model was shown."""

    buckets: Literal["square", "aspect_ratio"] | tuple[Size, ...]
    aspect_ratio: Literal["exact", "bucket"]


class Words(TextEncoder, extra="ignore"):
    """The text encoder it heard."""


class Latents(Autoencoder, extra="ignore"):
    """The autoencoder it saw through."""

    posterior: Literal["drawn", "mean"] = "drawn"  # older runs do not say so, and drawing pictures does not ask


class Sampling(Section, extra="ignore"):
    """How its run drew."""

    scheduler: Scheduler
    num_inference_steps: Positive
    guidance_scale: Rate
    guidance_interval: tuple[Share, Share] | None = None  # older runs do not say so, and guided at every step


class Remembered(Section, extra="ignore"):
    """All of it."""

    resolution: Positive
    objective: Annotated[GaussianPath | FlowPath, Discriminator("kind")]
    data: Data
    text_encoder: Words | None
    autoencoder: Latents
    sampling: Sampling


def remember(weights: str, run_config: dict[str, Any]) -> Remembered:
    """What the run wrote into ``weights``; ``ValueError`` naming the keys that drawing cannot do without."""
    try:
        return Remembered.model_validate(run_config)
    except ValidationError as error:
        keys = [".".join(part for part in map(str, wrong["loc"]) if part not in ("gaussian", "flow"))
                for wrong in error.errors()]  # fmt: skip
        raise ValueError(
            f"{weights}: the configuration kept in it has no usable {', '.join(keys)}; take a snapshot of a newer run"
        ) from None


def path_of(remembered: Remembered) -> Objective:
    """The objective as its samplers follow it; its loss is not that of the run."""
    return _path(remembered.objective)


def path_told(weights: str, objective: Mapping[str, Any], *, learned_variance: bool) -> Objective:
    """The objective of weights that tell no more of their run; ``ValueError`` naming a key that none can have."""
    try:
        told = GaussianPath.model_validate({**objective, "learned_variance": learned_variance})
    except ValidationError as error:
        keys = ", ".join(str(wrong["loc"][0]) for wrong in error.errors())
        raise ValueError(f"{weights}: the objective kept in it has no usable {keys}; convert it again") from None
    return _path(told)


def _path(section: GaussianPath | FlowPath) -> Objective:
    if section.kind == "flow":
        return Flow(shift=section.shift, time_sampling="uniform")
    return Gaussian(**{**released.OBJECTIVE, **section.model_dump(exclude={"kind"})})
