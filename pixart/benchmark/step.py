"""A training step, ours or a peer's, as a contender: noise, forward, loss, backward and, where wanted, the update."""

from typing import Any

import torch
from torch import Tensor, nn

from pixart.batch import Denoiser
from pixart.benchmark.device import autocast, held, settle
from pixart.benchmark.examples import Examples
from pixart.diffusion.objective import Objective
from pixart.training.optim import make_optimizer


class TrainingStep:
    """Works ``repeats`` steps a turn on the same examples.

    Args:
        model: what is trained, in training mode.
        denoise: ``model`` in the signature of ours.
        optimizer: None leaves the weights as they are.
    """

    def __init__(
        self,
        model: nn.Module,
        denoise: Denoiser,
        examples: Examples,
        *,
        objective: Objective,
        optimizer: torch.optim.Optimizer | None,
        precision: str,
        repeats: int,
    ):
        self.model, self.denoise, self.examples, self.objective = model.train(), denoise, examples, objective
        self.optimizer, self.precision, self.repeats = optimizer, precision, repeats
        self.device = examples.x0.device

    def __call__(self) -> int:
        """The images that went through."""
        for _ in range(self.repeats):
            self.step()
        settle(self.device)
        return self.examples.images * self.repeats

    def step(self) -> None:
        """One step."""
        self._learn()
        self.model.zero_grad()

    def learnt(self) -> tuple[Tensor, Tensor]:
        """One step; the mean loss (), and what came back through all blocks: the patches' gradient (D, C, P, P)."""
        loss = self._learn()
        gradient = next(weight.grad for weight in self.model.parameters() if weight.ndim == 4)  # the one convolution
        assert gradient is not None
        self.model.zero_grad()  # which lets go of the tensor, and leaves its numbers
        return loss.detach(), gradient

    def _learn(self) -> Tensor:
        loss = self._loss()
        loss.backward()
        if self.optimizer is not None:
            self.optimizer.step()
        return loss

    def release(self) -> None:
        """Let go of gradients and averages; the next step, of this or of another on the same weights, has new ones."""
        self.model.zero_grad()
        if self.optimizer is not None:
            self.optimizer.state.clear()

    def _loss(self) -> Tensor:
        x0, noise, u, cond, _ = self.examples
        t = self.objective.timesteps(u)
        x_t = self.objective.add_noise(x0, noise, t)
        with autocast(self.device, self.precision):
            output = self.denoise(x_t, t, cond)
        return self.objective.losses(output, x0=x0, noise=noise, x_t=x_t, t=t).loss.mean()

    def peak(self) -> int:
        """Bytes that this contender needs on a GPU, as if it were alone there."""
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        self.step()
        settle(self.device)
        return torch.cuda.max_memory_allocated(self.device) - before + held(self.model, self.optimizer)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """Fused, as the recipe has it; at a rate that leaves the weights where they are."""
    settings: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-10, "weight_decay": 0.03}
    return make_optimizer(model, lr=1e-12, decay="matrices", **settings)
