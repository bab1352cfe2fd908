"""Stored features and the encoders behind them give the model the same latents and the same text."""

from typing import Any

import pytest
import torch

from pixart.batch import Batch
from pixart.encoders.autoencoder import Pixels
from pixart.training.inputs import Inputs

CPU = torch.device("cpu")


class Doubling:
    """A text encoder whose states are the token ids times two."""

    def encode(self, token_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return token_ids[..., None].float() * 2 * mask[..., None]


def batch(**changes: Any) -> Batch:
    return Batch(torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.float64), ("a", "b"), **changes)


def test_stored_moments_in_float16_give_the_latents_of_the_images() -> None:
    images = torch.arange(96.0).view(2, 3, 4, 4) / 128  # exact in float16
    pixels = Pixels(scale=0.5)
    inputs = Inputs(None, pixels, device=CPU)
    _, latents, _ = inputs(batch(images=images))
    _, stored, _ = inputs(batch(moments=pixels.moments(images).half()))
    assert stored.dtype == torch.float32
    assert torch.equal(stored, latents)
    assert torch.equal(latents, images / 2)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16])
def test_stored_states_become_float32_with_their_scales_and_need_no_text_encoder(dtype: torch.dtype) -> None:
    ids, mask = torch.tensor([[3, 5], [7, 0]]), torch.tensor([[True, True], [True, False]])
    images = torch.zeros(2, 3, 4, 4)
    _, _, online = Inputs(Doubling(), Pixels(scale=1.0), device=CPU)(batch(images=images, token_ids=ids, mask=mask))
    scales = torch.full((2, 2, 1), 2.0) if dtype == torch.int8 else None
    states = (ids if dtype == torch.int8 else ids * 2)[..., None].to(dtype)
    made = batch(images=images, states=states, state_scales=scales, mask=mask)
    _, _, stored = Inputs(None, Pixels(scale=1.0), device=CPU)(made)
    assert stored.tokens is not None
    assert stored.tokens.dtype == torch.float32
    assert online.tokens is not None
    assert torch.equal(stored.tokens, online.tokens)
    assert stored.mask is not None
    assert torch.equal(stored.mask, mask)
