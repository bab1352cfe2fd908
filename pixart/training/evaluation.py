"""What a run looks like from outside: its loss on held-out samples, by timestep, and pictures of fixed prompts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import nn

from pixart.batch import Batch, Denoiser
from pixart.sampling.grid import make_grid
from pixart.training.loop import Learner
from pixart.training.tracking import Averages

TIME_BINS = 4


@torch.no_grad()
def validate(learner: Learner, batches: Callable[[], Iterator[Batch]]) -> dict[str, float]:
    """Mean losses of the averaged weights on a fixed held-out set with fixed noise and times.

    Args:
        batches: this rank's share of the set, anew at each call.

    Returns:
        ``validation_loss``, ``validation_mse``, and ``validation_mse_<bin>`` over ``TIME_BINS`` equal parts of u.
    """
    averages = Averages(learner.accelerator)
    averages.expect("validation_loss", "validation_mse", *(f"validation_mse_{i}" for i in range(TIME_BINS)))
    with learner.ema.weights(learner.bare) as model:
        for batch in batches():
            learner.faults.note(learner.progress.step, batch.faults)
            _observe(learner, model, batch, averages)
    return averages.flush()


def _observe(learner: Learner, model: Denoiser, batch: Batch, averages: Averages) -> None:
    batch, latents, cond = learner.inputs(batch)
    t = learner.objective.timesteps(batch.u)
    x_t = learner.objective.add_noise(latents, batch.noise, t)
    with learner.accelerator.autocast():
        output = model(x_t, t, cond)
    losses = learner.objective.losses(output, x0=latents, noise=batch.noise, x_t=x_t, t=t)
    averages.add("validation_loss", losses.loss)
    averages.add("validation_mse", losses.mse)
    bins = (batch.u * TIME_BINS).long().clamp(max=TIME_BINS - 1)
    for i in range(TIME_BINS):
        inside = (bins == i).double()
        averages.add_weighted(f"validation_mse_{i}", losses.mse, inside)


@dataclass(frozen=True)
class Pictures:
    """Fixed prompts, seeds and sizes, drawn again and again as the weights improve.

    Args:
        draw: (model, positions) -> one uint8 image (H, W, 3) a position.
        captions: what stands under each picture.
    """

    draw: Callable[[nn.Module, Sequence[int]], list[NDArray[np.uint8]]]
    captions: Sequence[str]

    def write(self, learner: Learner, path: Path) -> None:
        """A grid of the averaged weights' pictures; each rank draws its share, the first one writes."""
        accelerator = learner.accelerator
        mine = list(range(accelerator.process_index, len(self.captions), accelerator.num_processes))
        with learner.ema.weights(learner.bare) as model:
            drawn = list(zip(mine, self.draw(model, mine) if mine else [], strict=True))
        everyone: list[tuple[int, NDArray[np.uint8]]] = gather_object(drawn)
        if accelerator.is_main_process:
            images = [image for _, image in sorted(everyone, key=lambda pair: pair[0])]
            path.parent.mkdir(parents=True, exist_ok=True)
            make_grid(images, list(self.captions), columns=4).save(path)
