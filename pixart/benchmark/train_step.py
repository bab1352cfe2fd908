"""The suite ``train_step``: a training step of ours beside diffusers', plain and compiled, on equal work."""

from collections.abc import Iterator
from typing import Generic, TypeVar

import torch

from pixart.benchmark.agreement import tried
from pixart.benchmark.case import Compared, on
from pixart.benchmark.ceilings import Layers, copy_rate
from pixart.benchmark.device import DTYPES, Choice, forget_compiled, pick, precision_on
from pixart.benchmark.examples import STRIDE, Examples, Text, examples_of
from pixart.benchmark.kernels import profiled
from pixart.benchmark.peers import Compilation, as_denoiser, built, compile_ours, ours, their_class, twin
from pixart.benchmark.record import PARAMETERS, RESOLUTION, Figure
from pixart.benchmark.speed import CEILING, FLOAT8, RATIOS, SHARES, Speed
from pixart.benchmark.step import TrainingStep, adamw
from pixart.benchmark.suites import Run
from pixart.benchmark.timing import Contender, interleaved
from pixart.config import Float8, GaussianObjective, Model, Positive, Section
from pixart.diffusion.gaussian import Gaussian
from pixart.models.dit import PixArt
from pixart.models.float8 import check_float8, use_float8
from pixart.models.flops import products, training_flops
from pixart.models.precision import in_tf32
from pixart.training.work import peak_tflops

SUITE = "train_step"

T = TypeVar("T")

_AGREEMENT = {"fp32": (1e-4, 1e-2), "bf16": (2e-2, 0.1), "fp16": (1e-2, 0.1)}  # of loss and gradient, relative
_ROUNDED = {FLOAT8: (3e-2, 0.5)}  # the same of a contender that multiplies in fewer bits


class TrainingCase(Compared):
    """What is trained."""

    figures = RATIOS | SHARES | {"images_per_second"}


class OnEach(Section, Generic[T]):
    """A choice for each kind of device."""

    cpu: T
    cuda: T


class Settings(Section):
    """The keys of ``configs/suite/train_step.yaml``."""

    device: Choice
    model: Model
    objective: GaussianObjective
    text: Text
    optimizer: OnEach[bool]
    compilation: Compilation
    float8: Float8
    tf32: bool
    copy_mib: OnEach[Positive]
    cpu: dict[str, TrainingCase]
    cuda: dict[str, TrainingCase]


def check(settings: Settings) -> None:
    """``ValueError`` where the device cannot compute what is asked for."""
    device = pick(settings.device)
    for case in on(device, settings.cpu, settings.cuda).values():
        check_float8(settings.float8, device, precision=precision_on(device, case.precision))


def measure(settings: Settings, run: Run) -> Iterator[Figure]:
    """Every case of the device, and how fast it copies."""
    device = pick(settings.device)
    their_class()
    with in_tf32(settings.tf32):
        for name, case in on(device, settings.cpu, settings.cuda).items():
            yield from _case(settings, case, run, name, device)
    copied = copy_rate(on(device, settings.copy_mib.cpu, settings.copy_mib.cuda), rounds=run.rounds, device=device)
    yield Figure.spread(SUITE, "copy ceiling of the device's memory", copied, "GB/s")


def _case(settings: Settings, case: Compared, run: Run, name: str, device: torch.device) -> Iterator[Figure]:
    forget_compiled()
    precision = precision_on(device, case.precision)
    run.say(f"{device.type}.{name}: {case.batch} images of {case.resolution} px, {case.depth} blocks, {precision}")
    examples = examples_of(case, settings.text, dtype=DTYPES[precision], device=device, seed=run.seed)
    model = ours(settings.model, case, text_dim=settings.text.dim, device=device)
    yield Figure(SUITE, f"{name}: {PARAMETERS}", sum(p.numel() for p in model.parameters()) / 1e6, "M")
    yield Figure(SUITE, f"{name}: {RESOLUTION}", case.resolution, "px")
    steps = _steps(settings, case, model, examples, precision)
    fitting: dict[str, TrainingStep] = {}
    for contender, seconds in tried(
        steps,
        TrainingStep.learnt,
        tolerances=_AGREEMENT[precision],
        rounded=_ROUNDED,
        device=device,
        say=run.say,
        release=TrainingStep.release,
    ):
        fitting[contender] = steps[contender]
        yield Figure(SUITE, f"{name}: {contender} first_step", seconds, "s, compilation included")
    yield from _timed(case, model, examples, fitting, run, name, precision)
    yield from _kernels(fitting, name, device)
    if device.type == "cuda":
        for contender, step in fitting.items():
            yield Figure(SUITE, f"{name}: {contender} peak_memory", step.peak() / 2**30, "GiB")


def _steps(
    settings: Settings, case: Compared, model: PixArt, examples: Examples, precision: str
) -> dict[str, TrainingStep]:
    """Ours and theirs; plain and compiled are one set of weights, gradients and averages of them."""
    contenders = built(case.contenders, model, settings.compilation, checkpointing=case.checkpointing)
    update = on(examples.x0.device, settings.optimizer.cpu, settings.optimizer.cuda)
    one_of_each = {type(one): one for one in contenders.values()}
    optimizers = {kind: adamw(one) if update else None for kind, one in one_of_each.items()}
    if settings.float8 != "none":
        contenders[FLOAT8] = _in_float8(settings, model)
    return {
        name: TrainingStep(
            one,
            one if isinstance(one, PixArt) else as_denoiser(one),
            examples,
            objective=Gaussian(**settings.objective.model_dump(exclude={"kind"})),
            optimizer=optimizers[type(one)],
            precision=precision,
            repeats=case.repeats,
        )
        for name, one in contenders.items()
    }


def _kernels(steps: dict[str, TrainingStep], name: str, device: torch.device) -> Iterator[Figure]:
    """Of one step each; on a GPU, what the kernels of it do not fill is waiting for the host."""
    of = "GPU" if device.type == "cuda" else "CPU"
    for contender, step in steps.items():
        for kind, seconds in profiled(step.step, device).items():
            yield Figure(SUITE, f"{name}: {contender} {kind}", 1000 * seconds, f"ms of the {of} a step")


def _in_float8(settings: Settings, model: PixArt) -> PixArt:
    """The same weights, compiled too."""
    made, device = twin(model), next(model.parameters()).device
    use_float8(made, device, recipe=settings.float8)
    compile_ours(made, settings.compilation)
    return made


def _timed(
    case: Compared,
    model: PixArt,
    examples: Examples,
    steps: dict[str, TrainingStep],
    run: Run,
    name: str,
    precision: str,
) -> Iterator[Figure]:
    tokens = (case.resolution // STRIDE // model.patch_size) ** 2
    device = examples.x0.device
    all_products = products(model.config, case.batch, tokens, examples.text_tokens)
    layers = Layers(all_products, backward=True, dtype=DTYPES[precision], device=device)
    contenders: dict[str, Contender] = {**steps, CEILING: layers.contender(case.batch, repeats=case.repeats)}
    flops = training_flops(model.config, images=case.batch, image_tokens=tokens, text_tokens=examples.text_tokens)
    yield from Speed(
        SUITE,
        name,
        interleaved(contenders, rounds=run.rounds, seed=run.seed),
        unit="images",
        flops=flops // case.batch,
        layers_flops=layers.flops // case.batch,
        peak=peak_tflops(device),
        targets=case.targets,
    ).figures()
