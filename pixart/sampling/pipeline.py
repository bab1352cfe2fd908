"""Prompts or labels to pictures: conditioning, guided sampling, decoding."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pixart.diffusion.guidance import GuidanceChannels, Interval
from pixart.diffusion.objective import Objective
from pixart.diffusion.sampler import make_scheduler, sample
from pixart.encoders.autoencoder import LatentSpace
from pixart.encoders.text import CaptionEncoder
from pixart.sampling.denoising import InPrecision, Precision
from pixart.sampling.framing import Binning, crop_back, drawn_size
from pixart.sampling.request import Size, batches, check_numbers, check_words
from pixart.sampling.words import NullMask, ToldRatio, Words

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Pipeline:
    """Draws pictures with one model; nothing is moved, copied or changed by it.

    Args:
        model: a denoiser on ``device`` with the attribute ``config`` of ``pixart.models``.
        objective: what the model was trained for.
        text_encoder: for a model with text, else None.
        autoencoder: decodes the model's latents.
        device: where the sampling takes place; encoder and autoencoder are used where they lie.
        precision: of the model's forward: ``fp32`` as the weights are, or autocast to ``bf16`` or ``fp16``.
        null_caption: (L0, D) text states of "no caption"; None takes the text encoder's of the empty one.
        null_mask: which of its rows are attended to, see ``pixart.sampling.words``.
        told_aspect_ratio: how exactly a size-conditioned model is told it, see there.
        worse: another denoiser on ``device`` that is told the same and knows less, for autoguidance.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        text_encoder: CaptionEncoder | None,
        autoencoder: LatentSpace,
        *,
        device: torch.device | str,
        precision: Precision,
        null_caption: Tensor | None = None,
        null_mask: NullMask = "own",
        told_aspect_ratio: ToldRatio = "exact",
        worse: nn.Module | None = None,
    ) -> None:
        self.model = model
        self.config: dict[str, Any] = model.config  # type: ignore[assignment]
        self.objective = objective
        self.text_encoder = text_encoder
        self.autoencoder = autoencoder
        self.device = torch.device(device)
        self.denoiser = InPrecision(model, self.device, precision)
        self.worse = None if worse is None else InPrecision(worse, self.device, precision)
        self.words = Words(
            self.config,
            text_encoder,
            null_caption=null_caption,
            null_mask=null_mask,
            told_aspect_ratio=told_aspect_ratio,
        )

    @torch.no_grad()
    def __call__(
        self,
        *,
        prompts: Sequence[str] | None = None,
        labels: Sequence[int] | None = None,
        seeds: Sequence[int],
        sizes: Sequence[Size],
        guidance_scale: float,
        num_inference_steps: int,
        guidance_channels: GuidanceChannels,
        scheduler_name: str,
        batch_size: int,
        binning: Binning = "none",
        guidance_interval: Interval | None = None,
        guidance_every: int = 1,
        autoguidance_scale: float = 1.0,
        decode_batch: int = 1,
        refuse_nonfinite: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[NDArray[np.uint8]]:
        """One picture per prompt (or label), uint8 (height, width, 3), in the order they were asked for.

        Args:
            prompts: for a model with text.
            labels: for a class-conditional model, 0 .. num_classes - 1.
            seeds: one per picture, the only source of its noise: what else is in the batch does not matter.
            sizes: (height, width) in pixels of each; pictures drawn at one size are drawn together.
            guidance_scale: 1 is none.
            num_inference_steps: calls of the model per picture.
            guidance_channels: see ``pixart.diffusion.guidance``.
            scheduler_name: see ``pixart.diffusion.sampler``.
            batch_size: pictures drawn together at most; guidance doubles the rows of the model's batch.
            binning: ``official`` draws each at the nearest of the 33 official sizes and crops it back.
            guidance_interval: see ``pixart.diffusion.sampler``; None guides at every step.
            guidance_every: see there too; 1 asks the null conditioning at every guided step.
            autoguidance_scale: see there too; 1 is none.
            decode_batch: pictures decoded together at most: for each an autoencoder needs more memory than the model.
            refuse_nonfinite: otherwise pictures that came out as no numbers are black, and the log says how many.
            progress: called with (steps done, steps in all) over all batches.

        Raises:
            ValueError: nothing asked for, lists of unequal length, a label out of range, a size that does not divide
                into patches, prompts for a model without text or labels for one without classes; latents that are not
                finite.
        """
        encoder_dim = None if self.text_encoder is None else self.text_encoder.dim
        check_words(self.config, prompts=prompts, labels=labels, text_encoder_dim=encoder_dim)
        count = len(prompts if prompts is not None else labels if labels is not None else seeds)
        side = self.config["input_size"] * self.autoencoder.stride
        drawn = [drawn_size(size, binning=binning, resolution=side) for size in sizes]
        check_numbers(count, self.autoencoder.stride * self.config["patch_size"], seeds=seeds, sizes=drawn)
        groups = batches(drawn, batch_size)
        pictures: list[NDArray[np.uint8]] = [np.empty(0, np.uint8)] * len(seeds)
        with _evaluating(self.model):
            for number, rows in enumerate(groups):
                generators = [torch.Generator().manual_seed(seeds[row]) for row in rows]
                size = drawn[rows[0]]
                asked = self.words.asked(len(rows), size, prompts=_chosen(prompts, rows), labels=_chosen(labels, rows))
                latents = sample(
                    self.denoiser,
                    make_scheduler(self.objective, scheduler_name),
                    self._noise(generators, size),
                    asked.to(self.device),
                    None if guidance_scale == 1 else self.words.nothing(asked).to(self.device),
                    guidance_scale=guidance_scale,
                    num_inference_steps=num_inference_steps,
                    guidance_channels=guidance_channels,
                    guidance_interval=guidance_interval,
                    guidance_every=guidance_every,
                    worse=self.worse,
                    autoguidance_scale=autoguidance_scale,
                    generators=generators,
                    progress=_over_batches(progress, number, len(groups)),
                )
                finite = latents.isfinite().flatten(1).all(dim=1).tolist()
                lost = [seeds[row] for row, whole in zip(rows, finite, strict=True) if not whole]
                if lost:
                    _tell_lost(lost, guidance_scale, refuse=refuse_nonfinite)
                for row, image in zip(rows, self._decoded(latents, decode_batch), strict=True):
                    pictures[row] = _as_pixels(crop_back(image, sizes[row]))
        return pictures

    def _noise(self, generators: Sequence[torch.Generator], size: Size) -> Tensor:
        """(N, C, H, W), each row from its own generator on the CPU, so that every device starts from the same."""
        stride = self.autoencoder.stride
        shape = (self.autoencoder.channels, size[0] // stride, size[1] // stride)
        return torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(self.device)

    def _decoded(self, latents: Tensor, decode_batch: int) -> Iterator[Tensor]:
        """Images (1, 3, height, width) in [-1, 1] of ``latents`` (N, C, H, W), one after the other."""
        for some in latents.split(decode_batch):
            yield from self.autoencoder.decode(some).split(1)


def _tell_lost(seeds: Sequence[int], guidance_scale: float, *, refuse: bool) -> None:
    told = (
        f"{len(seeds)} picture(s) came out as no numbers (NaN or infinite), the first with seed {seeds[0]}: "
        f"lower guidance_scale={guidance_scale:g} or, where precision is fp16, take bf16 or fp32"
    )
    if refuse:
        raise ValueError(told)
    logger.warning(told)


def _as_pixels(image: Tensor) -> NDArray[np.uint8]:
    """(1, 3, height, width) in [-1, 1] -> (height, width, 3)."""
    return ((image[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, and afterwards in whichever it was."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _chosen(asked: Sequence[T] | None, rows: Sequence[int]) -> list[T] | None:
    return None if asked is None else [asked[row] for row in rows]


def _over_batches(
    progress: Callable[[int, int], None] | None, number: int, count: int
) -> Callable[[int, int], None] | None:
    """``progress`` of one of ``count`` batches told as progress of them all."""
    if progress is None:
        return None
    return lambda done, steps: progress(number * steps + done, count * steps)
