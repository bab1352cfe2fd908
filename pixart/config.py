"""The shape of a run: every type, range and rule between fields; every value lives in ``configs/``."""

import hashlib
import json
import math
import re
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"input should be a number, not {str(value).lower()}")
    return value


def _rising(shares: tuple[float, float]) -> tuple[float, float]:
    if not shares[0] < shares[1]:
        raise ValueError(f"[{shares[0]:g}, {shares[1]:g}] does not rise: give two shares of time, the lower one first")
    return shares


Number = BeforeValidator(_number)  # pydantic takes true for 1
Positive = Annotated[int, Field(gt=0, lt=2**63), Number]
Many = Annotated[int, Field(gt=0, le=2**16), Number]  # pictures
Pixels = Annotated[int, Field(gt=0, le=2**14), Number]
Cadence = Annotated[int, Field(ge=0), Number]  # every so many steps; 0 = never
Seed = Annotated[int, Field(ge=0, lt=2**63), Number]
Share = Annotated[float, Field(ge=0, le=1), Number]
Shares = Annotated[tuple[Share, Share], AfterValidator(_rising)]  # of time, between which there is guidance
Decay = Annotated[float, Field(ge=0, lt=1), Number]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False), Number]
Above0 = Annotated[float, Field(gt=0), Number]
Size = tuple[Positive, Positive]  # height, width in pixels
Precision = Literal["fp32", "bf16", "fp16"]
Float8 = Literal["none", "rowwise", "tensorwise"]
Scheduler = Literal[
    "dpm_solver", "dpm_solver_logsnr", "dpm_solver_official", "ddim", "ddpm", "iddpm", "sa_solver", "euler"
]  # fmt: skip

_WEIGHTS_APART = 1e6

# A resume may change these: none of them changes what a step computes. `compile` is not among them: fused kernels round
# otherwise than those one by one.
FREE_ON_RESUME = frozenset({
    "steps", "micro_batch", "run_dir", "resume", "init_from", "reparameterise", "log_every", "validate_every",
    "sample_every", "snapshot_every", "checkpoint_every", "keep_checkpoints", "on_nonfinite", "dollars_per_device_hour",
    "keep_every", "background_save", "sharding", "preflight", "model.checkpointing",
    "tracker", "data.workers", "data.cache", "data.verify", "data.storage_options", "data.max_bad_share", "sampling",
})  # fmt: skip

# What runs did that were made before there were these keys: saying it now changes neither a run nor its directory.
UNSAID = {"compile": False, "float8": "none", "optimizer.lr_decay": "none", "autoencoder.posterior": "drawn"}


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Model(Section):
    dim: Positive
    depth: Positive
    num_heads: Positive
    patch_size: Positive
    mlp_ratio: Above0
    adaln: Literal["single", "per_block"]
    size_conditioning: bool
    interpolation_scale: Above0
    attention: Literal["sdpa", "xformers"]
    fp32_attention: bool
    checkpointing: Literal["none", "blocks", "selective"]
    embedder_std: Above0

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} is not a multiple of num_heads {self.num_heads}")
        if self.dim % 4:
            raise ValueError(f"dim {self.dim} is not a multiple of 4, which the 2-D positions need")
        if self.size_conditioning and self.dim % 3:
            raise ValueError(
                f"size_conditioning needs a dim that 3 divides (height, width, aspect ratio), not {self.dim}"
            )
        return self


class GaussianObjective(Section):
    kind: Literal["gaussian"]
    num_timesteps: Positive
    schedule: Literal["linear", "cosine"]
    prediction: Literal["eps", "velocity", "x0"]
    learned_variance: bool
    weighting: Literal["none", "min_snr", "soft_min_snr", "truncated_snr", "p2"]
    weighting_gamma: Above0
    time_sampling: Literal["uniform", "logit_normal"]


class FlowObjective(Section):
    kind: Literal["flow"]
    shift: Above0
    time_sampling: Literal["uniform", "logit_normal"]


class DataSection(Section):
    num_classes: Positive | None
    label_drop: Share
    caption_drop: Share
    caption_choice: Literal["first", "random"]
    buckets: Literal["square", "aspect_ratio"] | tuple[Size, ...]
    bucket_distance: Literal["linear", "log"]
    small_buckets: Literal["merge", "repeat", "refuse"]
    constant_tokens: bool
    streams: Annotated[int, Field(gt=0, le=2**16)]
    window: Annotated[int, Field(gt=0, le=2**20)]
    aspect_ratio: Literal["exact", "bucket"]
    flip: bool
    stratified: bool
    validation_samples: Cadence
    max_bad_share: Share
    workers: Cadence


class MixturePart(Section):
    root: str
    weight: Annotated[float, Field(ge=1e-9, le=1e9)] | None = None  # there is no YAML for what users name themselves


class Cache(Section):
    folder: str
    gib: Above0
    ahead: Cadence
    fetchers: Positive
    retries: Cadence
    timeout: Above0


class ShardsData(DataSection):
    kind: Literal["shards"]
    root: str | None
    mixture: Annotated[dict[str, MixturePart], Field(min_length=1)] | None
    quarantine: str | None
    verify: bool
    cache: Cache
    storage_options: Annotated[dict[str, Any] | None, PlainSerializer(lambda _: None)]  # secrets are never written down

    def check_origin(self) -> None:
        """Raise ``ValueError`` unless the data come from one place, or from a mixture that is well said."""
        if self.root is None and self.mixture is None:
            raise ValueError(
                "data.root is not set: give the folder that tools/prepare.py wrote (data.root=…); "
                "scale=tiny has its data built in and needs none"
            )
        if self.root is not None and self.mixture is not None:
            raise ValueError("give data.root or data.mixture, not both")
        parts = self.mixture or {}
        if wrong := next((name for name in parts if not re.fullmatch(r"[\w.-]+", name)), None):
            raise ValueError(f"data.mixture: '{wrong}' is to be a name of letters, digits, '_', '-' and '.'")
        if len({part.weight is None for part in parts.values()}) > 1:
            raise ValueError("data.mixture: give every part a weight, or none and each counts by its size")
        weights = [part.weight for part in parts.values() if part.weight is not None]
        if weights and max(weights) > _WEIGHTS_APART * min(weights):
            raise ValueError(
                f"data.mixture: the weights {min(weights):g} and {max(weights):g} are more than a million times apart: "
                "bring them nearer, or leave out the part that would hardly be seen"
            )


class ShapesData(DataSection):
    kind: Literal["shapes"]
    view: Literal["labelled", "captioned", "aesthetic"]
    density: Literal["dense", "sparse"]
    num_samples: Positive
    seed: Seed


class TextEncoder(Section):
    source: str
    dim: Positive
    max_tokens: Positive
    cleaning: Literal["official", "basic", "none"]
    dtype: Precision


class Autoencoder(Section):
    source: str
    channels: Positive
    stride: Positive
    posterior: Literal["drawn", "mean"]
    dtype: Precision


class OptimizerSection(Section):
    lr: Rate
    lr_decay: Literal["none", "linear", "cosine"]
    lr_scaling: Literal["none", "sqrt"]
    betas: tuple[Share, Share]
    eps: Above0
    weight_decay: Rate
    decay: Literal["matrices", "every_tensor"]
    warmup_steps: Cadence
    clip_norm: Above0


class AdamW(OptimizerSection):
    name: Literal["adamw"]


class Muon(OptimizerSection):
    name: Literal["muon"]
    matrix_lr: Rate
    momentum: Decay


class Ema(Section):
    decay: Decay
    warmup: bool
    others: tuple[Decay, ...]
    power: tuple[Annotated[float, Field(ge=0.001, lt=0.28)], ...]

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for key, rates in {"others": (self.decay, *self.others), "power": self.power}.items():
            twice = next((rate for rate in rates if rates.count(rate) > 1), None)
            if twice is not None:
                raise ValueError(f"{twice:g} is averaged twice: leave it out of {key}")
        return self


class Sampling(Section):
    scheduler: Scheduler
    num_inference_steps: Positive
    guidance_scale: Rate
    guidance_channels: Literal["all", "three"]
    guidance_interval: Shares | None
    seed: Seed
    labels: tuple[Cadence, ...]
    prompts: tuple[str, ...]


class Tracker(Section):
    name: Literal["none", "wandb", "tensorboard"]
    project: str


class Config(Section):
    """A whole run. ``stage`` and ``scale`` are labels for people: no code asks for them."""

    stage: int
    scale: str
    steps: Positive
    global_batch: Positive
    micro_batch: Positive
    resolution: Positive
    seed: Seed
    run_dir: str | None
    resume: bool
    init_from: str | None
    reparameterise: Literal["first", "mean", "fresh"]
    precision: Precision
    tf32: bool
    deterministic: bool
    compile: bool
    float8: Float8
    log_every: Positive
    validate_every: Cadence
    sample_every: Cadence
    snapshot_every: Cadence
    checkpoint_every: Cadence
    keep_checkpoints: Positive
    keep_every: Cadence
    background_save: bool
    sharding: Literal["auto", "none", "shard_grad_op", "full_shard", "hybrid_shard"]
    preflight: bool | Literal["only"]
    on_nonfinite: Literal["stop", "skip"]
    dollars_per_device_hour: Rate | None
    model: Model
    objective: Annotated[GaussianObjective | FlowObjective, Discriminator("kind")]
    data: Annotated[ShardsData | ShapesData, Discriminator("kind")]
    text_encoder: TextEncoder | None
    autoencoder: Autoencoder
    optimizer: Annotated[AdamW | Muon, Discriminator("name")]
    ema: Ema
    sampling: Sampling
    tracker: Tracker

    @model_validator(mode="after")
    def _rules_between_sections(self) -> Self:
        cell = self.autoencoder.stride * self.model.patch_size
        sizes = self.data.buckets if isinstance(self.data.buckets, tuple) else ((self.resolution, self.resolution),)
        for height, width in sizes:
            if height % cell or width % cell:
                raise ValueError(
                    f"resolution {height} x {width} is not a multiple of {cell} "
                    f"(autoencoder.stride {self.autoencoder.stride} x model.patch_size {self.model.patch_size})"
                )
        if self.data.buckets == "aspect_ratio" and self.resolution not in (256, 512, 1024):
            raise ValueError(
                f"data.buckets=aspect_ratio has tables for resolution 256, 512 and 1024, not {self.resolution}: "
                "list the buckets, as data.buckets=[[48,48],[40,56]]"
            )
        if (self.text_encoder is None) == (self.data.num_classes is None):
            raise ValueError(
                "a model takes captions or labels: set text_encoder=none with data.num_classes (stage 1), "
                "or a text encoder and data.num_classes=null (stages 2 and 3)"
            )
        if self.data.kind == "shards":
            self.data.check_origin()
        return self

    @property
    def input_size(self) -> int:
        """Side of the configured square, in latent cells."""
        return self.resolution // self.autoencoder.stride

    @property
    def learned_variance(self) -> bool:
        return self.objective.kind == "gaussian" and self.objective.learned_variance

    @property
    def peak_lr(self) -> float:
        """Learning rate after warm-up."""
        return self.optimizer.lr * self._lr_scale

    @property
    def peak_matrix_lr(self) -> float | None:
        """The same of the matrices that Muon moves; None without it."""
        return self.optimizer.matrix_lr * self._lr_scale if isinstance(self.optimizer, Muon) else None

    @property
    def _lr_scale(self) -> float:
        """The square-root rule of the official code counts from a batch of 256."""
        return math.sqrt(self.global_batch / 256) if self.optimizer.lr_scaling == "sqrt" else 1.0


class Draw(Section):
    """How to draw, for the doors that read weights; None is as the run that made them draws its own pictures."""

    seed: Seed
    scheduler: Literal[Scheduler, "lcm"] | None
    num_inference_steps: Positive | None
    guidance_scale: Rate | None
    guidance_interval: Shares | None
    autoguidance: str | dict[str, str] | None
    autoguidance_scale: Rate | None
    precision: Precision | None
    compile: bool

    @model_validator(mode="after")
    def _scale_needs_weights(self) -> Self:
        if self.autoguidance_scale is not None and self.autoguidance is None:
            raise ValueError(
                f"autoguidance_scale={self.autoguidance_scale:g} leads away from nothing: give autoguidance=…, the "
                "weights that know less, or leave it out"
            )
        return self

    def autoguidance_scale_for(self, worse: str | None) -> float:
        """``autoguidance_scale`` as a sampler takes it, 1 where there are no weights that know less."""
        if worse is None:
            return 1.0
        return 2.0 if self.autoguidance_scale is None else self.autoguidance_scale


class SampleConfig(Draw):
    """What ``sample.py`` is asked for."""

    weights: str
    prompts: str | tuple[str, ...] | None
    labels: tuple[Cadence, ...] | None
    out: str
    images_per_prompt: Many
    height: Pixels | None
    width: Pixels | None
    aspect_ratio: Above0 | None
    guidance_channels: Literal["all", "three"]
    guidance_every: Positive
    autoguidance: str | None
    batch_size: Many
    decode_batch: Many
    tiled: bool
    low_memory: bool
    binning: Literal["none", "official"]
    told_aspect_ratio: Literal["exact", "bucket"] | None
    null_caption: Literal["empty", "y_embedding"] | None
    null_mask: Literal["own", "prompt"] | None
    text_encoder: str | None
    autoencoder: str | None
    columns: Positive

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if (self.prompts is None) == (self.labels is None):
            raise ValueError(
                "give prompts=<file or list> for a model with text, or labels=[…] for a class-conditional one"
                + ("" if self.prompts is None else ", not both")
            )
        for key in ("prompts", "labels"):
            if getattr(self, key) == ():
                raise ValueError(f"{key}=[] asks for nothing: give at least one")
        if (self.height is None) != (self.width is None):
            given, lacking = ("height", "width") if self.width is None else ("width", "height")
            raise ValueError(f"{given} is given without {lacking}: give both, or aspect_ratio=… alone")
        if self.height is not None and self.aspect_ratio is not None:
            raise ValueError("give height and width, or aspect_ratio, not both")
        return self


class EvaluateConfig(Draw):
    """What ``tools/evaluate.py`` is asked for."""

    weights: str | dict[str, str]
    summary: str | None = Field(alias="json")
    images: str | None
    sizes: dict[str, Annotated[tuple[Size, ...], Field(min_length=1)]] | None
    autoguidance: dict[str, str] | None
    batch_size: Many
    per_task: Positive
    started: float | None

    @property
    def named(self) -> dict[str, str]:
        """The weights by their names; alone they are called "weights"."""
        return self.weights if isinstance(self.weights, dict) else {"weights": self.weights}

    @model_validator(mode="after")
    def _names_of_weights(self) -> Self:
        if not self.named:
            raise ValueError("weights: {} names none; give a run directory or a snapshot, or {name: one of them, …}")
        for key, named in {"sizes": self.sizes, "autoguidance": self.autoguidance}.items():
            if unknown := sorted((named or {}).keys() - self.named.keys()):
                raise ValueError(f"{key}: there are no weights named '{unknown[0]}', only {', '.join(self.named)}")
        return self


S = TypeVar("S", bound=Section)


def parse(values: dict[str, Any], section: type[S]) -> S:
    """Validate the resolved configuration of a door.

    Raises:
        ValueError: one sentence that names each wrong key by its path.
    """
    if section is Config and values.get("stage") is None:
        raise ValueError("no stage was chosen: add +stage=1, +stage=2 or +stage=3")
    for key, value in flatten(values).items():
        if value == "???":
            raise ValueError(f"{key} is not set: give {key}=…")
        if value == "" and "storage_options" not in key:
            raise ValueError(f"{key} is empty: give {key}=…, or leave it out")
    try:
        return section.model_validate(values)
    except ValidationError as error:
        by_key: dict[str, list[Any]] = {}
        for problem in error.errors():
            by_key.setdefault(_path(problem), []).append(problem)
        raise ValueError("; ".join(_sentence(*each) for each in by_key.items())) from None


def _path(problem: Any) -> str:
    # Pydantic names the branch of a union that it took, and the types that it tried; the user did not type them.
    unions = {"gaussian", "flow", "shards", "shapes", "adamw", "muon"}
    parts = [part for part in problem["loc"] if part not in unions and not re.search(r"\[|^(str|bool)$", str(part))]
    if problem["type"] == "missing" and isinstance(parts[-1], int):  # of a pair
        parts.pop()
    return ".".join(map(str, parts))


def _sentence(path: str, problems: list[Any]) -> str:
    """What is wrong with a key: more than one problem where several types were tried on its value."""
    first = problems[0]
    if first["type"] == "extra_forbidden":
        return f"unknown key '{path}'"
    if first["type"] == "missing" and isinstance(first["loc"][-1], int):
        return f"{path}: there are too few of them in {first['input']!r}"
    messages = [problem["msg"].removeprefix("Value error, ") for problem in problems]
    if first["type"] == "value_error":
        return f"{path}: {messages[0]}" if path else messages[0]
    tried = [message[0].lower() + message[1:].replace("valid tuple", "list") for message in messages]
    return f"{path}: {', or '.join(dict.fromkeys(tried))}, not {first['input']!r}"


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionary -> {'optimizer.lr': …}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def binding(values: dict[str, Any]) -> dict[str, Any]:
    """The flattened part of a configuration that a resume may not change."""
    flat = flatten(values)
    # A rate that falls until the last step is another one at every step where there are more of them.
    may_change = FREE_ON_RESUME - (set() if flat.get("optimizer.lr_decay", "none") == "none" else {"steps"})

    def free(key: str) -> bool:
        parts = key.split(".")
        return any(".".join(parts[:length]) in may_change for length in range(1, len(parts) + 1))

    return {key: value for key, value in flat.items() if not free(key) and (key, value) not in UNSAID.items()}


def default_run_dir(config: Config) -> str:
    """``outputs/<stage>-<scale>-<hash>``: the same command finds the same run again."""
    start: dict[str, Any] = {"init_from": config.init_from}
    if config.init_from is not None:
        start["reparameterise"] = config.reparameterise
    decisive = json.dumps(binding(config.model_dump(mode="json")) | start, sort_keys=True)
    return f"outputs/{config.stage}-{config.scale}-{hashlib.sha256(decisive.encode()).hexdigest()[:8]}"
