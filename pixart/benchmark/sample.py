"""The suite ``sample``: guided denoising of ours beside diffusers', and where wanted the two whole pipelines."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from pixart.batch import Conditioning, Denoiser
from pixart.benchmark.agreement import tried
from pixart.benchmark.case import Compared, on
from pixart.benchmark.ceilings import Layers
from pixart.benchmark.device import DTYPES, Choice, forget_compiled, pick, precision_on, settle
from pixart.benchmark.examples import STRIDE, Text, examples_of
from pixart.benchmark.peers import Compilation, as_denoiser, built, ours, their_class
from pixart.benchmark.pipelines import Asked, Encoders, compared, write_encoders
from pixart.benchmark.record import Figure
from pixart.benchmark.speed import CEILING, RATIOS, SHARES, Speed
from pixart.benchmark.suites import Run
from pixart.benchmark.timing import interleaved
from pixart.config import GaussianObjective, Model, Positive, Rate, Section
from pixart.diffusion.gaussian import Gaussian
from pixart.diffusion.sampler import make_scheduler, sample
from pixart.models.dit import PixArt
from pixart.models.flops import products_of_drawing
from pixart.training.work import peak_tflops

SUITE = "sample"

_AGREEMENT = {"fp32": 1e-3, "bf16": 0.2, "fp16": 0.1}  # of latents after two steps, of the largest


class SampleCase(Compared):
    """What is drawn."""

    steps: Positive  # of one drawing; the text is prepared once in it
    encoders: Encoders

    figures = RATIOS | SHARES | {"steps_per_second"} | {f"pipeline_{ratio}" for ratio in RATIOS}


class Settings(Section):
    """The keys of ``configs/suite/sample.yaml``."""

    device: Choice
    model: Model
    objective: GaussianObjective
    text: Text
    guidance_scale: Rate
    scheduler: Literal["dpm_solver", "ddim"]
    pipelines: Literal["auto", "always", "never"]
    compilation: Compilation
    cpu: dict[str, SampleCase]
    cuda: dict[str, SampleCase]

    @model_validator(mode="after")
    def _steps_of_the_schedule(self) -> Self:
        most = self.objective.num_timesteps - 1
        for kind, cases in {"cpu": self.cpu, "cuda": self.cuda}.items():
            for name, case in cases.items():
                if case.steps > most:
                    raise ValueError(f"{kind}.{name}.steps: {case.steps} is more than the schedule's {most}")
        return self


@dataclass(frozen=True)
class Drawing:
    """From noise to latents by one denoiser, all with the same sampler."""

    denoiser: Denoiser
    objective: Gaussian
    latents: Tensor  # (N, C, H, W) noise
    cond: Conditioning  # N captions
    null: Conditioning
    settings: Settings
    steps: int

    def draw(self, steps: int = 2) -> Tensor:
        """(N, C, H, W) after so many steps from noise to the end."""
        return sample(
            self.denoiser,
            make_scheduler(self.objective, self.settings.scheduler),
            self.latents,
            self.cond,
            self.null,
            guidance_scale=self.settings.guidance_scale,
            num_inference_steps=steps,
        )

    def __call__(self) -> int:
        """The steps that it took."""
        self.draw(self.steps)
        settle(self.latents.device)
        return self.steps


def measure(settings: Settings, run: Run) -> Iterator[Figure]:
    """Every case of the device."""
    device = pick(settings.device)
    their_class()
    for name, case in on(device, settings.cpu, settings.cuda).items():
        yield from _case(settings, case, run, name, device)


def _case(settings: Settings, case: SampleCase, run: Run, name: str, device: torch.device) -> Iterator[Figure]:
    forget_compiled()
    precision = precision_on(device, case.precision)
    run.say(f"{device.type}.{name}: {case.batch} of {case.resolution} px, {case.depth} blocks, {precision}")
    changes: dict[str, Any] = {"checkpointing": "none"}
    model = ours(settings.model, case, text_dim=settings.text.dim, device=device, **changes).eval()
    models = built(case.contenders, model.to(DTYPES[precision]), settings.compilation)
    models = yield from _denoising(settings, case, models, run, name, precision)
    if settings.pipelines == "never" or (settings.pipelines == "auto" and device.type != "cuda"):
        run.say(f"{name}: the whole pipelines are left out on the CPU; suites.sample.pipelines=always has them")
        return
    folder = run.folder / name
    write_encoders(folder, case.encoders, settings.text)
    asked = Asked(
        _objective(settings),
        side=case.resolution,
        pictures=case.batch,
        steps=case.steps,
        guidance_scale=settings.guidance_scale,
        scheduler=settings.scheduler,
        max_tokens=settings.text.longest,
    )
    yield from compared(models, asked, folder, run, name=f"{name}, whole pipeline", targets=case.targets)


def _objective(settings: Settings) -> Gaussian:
    return Gaussian(**settings.objective.model_dump(exclude={"kind"}))


def _denoising(
    settings: Settings,
    case: SampleCase,
    models: dict[str, Any],
    run: Run,
    name: str,
    precision: str,
) -> Generator[Figure, None, dict[str, Any]]:
    """Those of ``models`` that the device has the memory for, at the end."""
    mine = next(model for model in models.values() if isinstance(model, PixArt))
    device = next(mine.parameters()).device
    made = examples_of(case, settings.text, dtype=DTYPES[precision], device=device, seed=run.seed)
    drawings = {
        contender: Drawing(
            model if isinstance(model, PixArt) else as_denoiser(model),
            _objective(settings),
            made.noise,
            *_captions(made.cond, padded=not isinstance(model, PixArt)),
            settings,
            case.steps,
        )
        for contender, model in models.items()
    }
    fitting: dict[str, Drawing] = {}
    for contender, seconds in tried(
        drawings, lambda one: (one.draw(),), tolerances=(_AGREEMENT[precision],), device=device, say=run.say
    ):
        fitting[contender] = drawings[contender]
        yield Figure(SUITE, f"{name}: {contender} first_drawing", seconds, "s, two steps, compilation included")
    config, tokens = mine.config, (case.resolution // STRIDE // mine.patch_size) ** 2
    rows, words = 2 * case.batch, made.text_tokens + case.batch  # the null caption has one token
    needed = list(products_of_drawing(config, rows, tokens, words, steps=case.steps))
    layers = Layers(needed, backward=False, dtype=DTYPES[precision], device=device)
    yield from Speed(
        SUITE,
        name,
        interleaved({**fitting, CEILING: layers.contender(case.steps)}, rounds=run.rounds, seed=run.seed),
        unit="steps",
        flops=sum(product.forward_flops for product in needed) // case.steps,
        layers_flops=layers.flops // case.steps,
        peak=peak_tflops(device),
        targets=case.targets,
    ).figures()
    return {contender: models[contender] for contender in fitting}


def _captions(cond: Conditioning, *, padded: bool) -> tuple[Conditioning, Conditioning]:
    """Captions and null captions of one token, as our text encoder gives them, or ``padded`` as their pipeline does."""
    tokens, mask = cond.tokens, cond.mask
    assert tokens is not None
    assert mask is not None
    length = mask.shape[1] if padded else int(mask.sum(dim=1).max())
    one = mask.shape[1] if padded else 1
    first = torch.arange(mask.shape[1], device=mask.device).expand_as(mask) < 1
    cond = cond._replace(tokens=tokens[:, :length], mask=mask[:, :length], places=None)  # not those of such rows
    return cond, cond._replace(tokens=tokens[:, :one].flip(0), mask=first[:, :one])
