"""The suite ``sample``: guided denoising of ours beside diffusers', and where wanted the two whole pipelines."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pixart.batch import Conditioning, Denoiser
from pixart.benchmark.agreement import tried
from pixart.benchmark.case import Case, on
from pixart.benchmark.ceilings import Layers
from pixart.benchmark.device import DTYPES, Choice, pick, precision_on, settle
from pixart.benchmark.examples import STRIDE, Text, examples_of
from pixart.benchmark.peers import Compilation, as_denoiser, compile_ours, compile_theirs, ours, theirs, twin
from pixart.benchmark.pipelines import Asked, Encoders, compared, write_encoders
from pixart.benchmark.record import Figure
from pixart.benchmark.speed import CEILING, Speed
from pixart.benchmark.suites import Run
from pixart.benchmark.timing import Contender, interleaved
from pixart.config import GaussianObjective, Model, Positive, Rate, Section
from pixart.diffusion.gaussian import Gaussian
from pixart.diffusion.sampler import make_scheduler, sample
from pixart.models.dit import PixArt
from pixart.models.flops import forward_flops, products
from pixart.training.work import peak_tflops

SUITE = "sample"

_AGREEMENT = {"fp32": 1e-3, "bf16": 0.2, "fp16": 0.1}  # of latents after two steps, of the largest


class SampleCase(Case):
    """What is drawn."""

    steps: Positive  # of one drawing; the text is prepared once in it
    encoders: Encoders


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
    whole = settings.pipelines == "always" or (settings.pipelines == "auto" and device.type == "cuda")
    for name, case in on(device, settings.cpu, settings.cuda).items():
        precision = precision_on(device, case.precision)
        run.say(f"{name}: {case.batch} of {case.resolution} px, {case.depth} blocks, {precision}, {device.type}")
        changes: dict[str, Any] = {"checkpointing": "none"}
        model = ours(settings.model, case, text_dim=settings.text.dim, device=device, **changes).eval()
        models = _models(settings, model.to(DTYPES[precision]))
        yield from _denoising(settings, case, models, run, name, precision)
        if not whole:
            run.say(f"{name}: the whole pipelines are left out on the CPU; suites.sample.pipelines=always has them")
            continue
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


def _models(settings: Settings, model: PixArt) -> dict[str, Any]:
    """The two transformers, plain and compiled, in the precision of the weights."""
    peer = theirs(model, fuse_qkv=settings.compilation.fuse_peer_qkv)
    peer = peer.to(next(model.parameters()).dtype).eval()
    compiled, peer_compiled = twin(model), twin(peer)
    compile_ours(compiled, settings.compilation)
    compile_theirs(peer_compiled, settings.compilation)
    return {"eager": peer, "compiled": peer_compiled, "ours": model, "ours_compiled": compiled}


def _denoising(
    settings: Settings,
    case: SampleCase,
    models: dict[str, Any],
    run: Run,
    name: str,
    precision: str,
) -> Iterator[Figure]:
    device = next(models["ours"].parameters()).device
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
        drawings, Drawing.draw, tolerance=_AGREEMENT[precision], device=device, say=run.say
    ):
        fitting[contender] = drawings[contender]
        yield Figure(SUITE, f"{name}: {contender} first_drawing", seconds, "s, two steps, compilation included")
    config, tokens = models["ours"].config, (case.resolution // STRIDE // models["ours"].patch_size) ** 2
    rows, words = 2 * case.batch, made.text_tokens + case.batch  # the null caption has one token
    layers = Layers(products(config, rows, tokens, words), backward=False, dtype=DTYPES[precision], device=device)
    contenders: dict[str, Contender] = {**fitting, CEILING: layers.contender(1)}
    flops = forward_flops(config, images=rows, image_tokens=tokens, text_tokens=words)
    times = interleaved(contenders, rounds=run.rounds, seed=run.seed)
    peak = peak_tflops(device)
    yield from Speed(SUITE, name, times, "steps", flops, layers.flops, peak, case.targets).figures()


def _captions(cond: Conditioning, *, padded: bool) -> tuple[Conditioning, Conditioning]:
    """Captions and null captions of one token, as our text encoder gives them, or ``padded`` as their pipeline does."""
    assert cond.tokens is not None
    assert cond.mask is not None
    length = cond.mask.shape[1] if padded else int(cond.mask.sum(dim=1).max())
    one = cond.mask.shape[1] if padded else 1
    first = torch.arange(cond.mask.shape[1], device=cond.mask.device).expand_as(cond.mask) < 1
    null = cond._replace(tokens=cond.tokens[:, :one].flip(0), mask=first[:, :one])
    return cond._replace(tokens=cond.tokens[:, :length], mask=cond.mask[:, :length]), null
