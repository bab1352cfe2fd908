"""The one place that turns a batch into what the model learns from: latents and conditioning, stored or made here."""

import torch
from torch import Tensor

from pixart.batch import Batch, Conditioning
from pixart.data.features import dequantised
from pixart.encoders.autoencoder import LatentSpace
from pixart.encoders.text import TextEncoder


class Inputs:
    """Frozen encoders, used for what a batch does not hold already.

    Args:
        text_encoder: None for a class-conditional run.
        autoencoder: images or stored moments -> latents.
        device: where both sit.
    """

    def __init__(self, text_encoder: TextEncoder | None, autoencoder: LatentSpace, *, device: torch.device):
        self.text_encoder = text_encoder
        self.autoencoder = autoencoder
        self.device = device

    @torch.no_grad()
    def __call__(self, batch: Batch) -> tuple[Batch, Tensor, Conditioning]:
        """The batch on the device, its latents (N, C, H, W) and what the model is told."""
        batch = batch.to(self.device, non_blocking=True)
        cond = Conditioning(
            tokens=self._states(batch),
            mask=batch.mask,
            size=batch.size,
            aspect_ratio=batch.aspect_ratio,
            label=batch.label,
            places=batch.places,
        )
        return batch, self._latents(batch), cond

    def _latents(self, batch: Batch) -> Tensor:
        if batch.moments is not None:
            return self.autoencoder.draw(batch.moments.float(), batch.posterior_noise)
        assert batch.images is not None, "a batch holds images or moments"
        return self.autoencoder.encode(batch.images, batch.posterior_noise)

    def _states(self, batch: Batch) -> Tensor | None:
        if batch.states is not None:
            return dequantised(batch.states, batch.state_scales)
        if batch.token_ids is None:
            return None
        assert self.text_encoder is not None, "token ids need a text encoder"
        assert batch.mask is not None, "token ids come with their mask"
        return self.text_encoder.encode(batch.token_ids, batch.mask)
