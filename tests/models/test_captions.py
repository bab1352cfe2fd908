"""Laws of packed captions: what is padding is not computed, and nothing else changes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pixart.batch import Conditioning, concatenate, places_of
from pixart.models import dit
from pixart.models.captions import STEP, located

MASKS = {
    "ragged": [[1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0]],
    "with holes": [[0, 1, 0, 1, 0, 0], [1, 0, 0, 0, 1, 0]],
    "one empty": [[0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]],
    "all empty": [[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]],
    "all full": [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]],
}


def told(captioned: Conditioning, mask: Tensor) -> Conditioning:
    """Captions of random states, NaN in their padding."""
    assert captioned.tokens is not None
    return captioned._replace(tokens=captioned.tokens.masked_fill(~mask[..., None], torch.nan), mask=mask)


def learnt(model: nn.Module, *inputs: object) -> list[Tensor]:
    """The output, and the gradient of each parameter."""
    output = model(*inputs)
    return [output, *torch.autograd.grad(output.square().sum(), list(model.parameters()))]


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_packed_captions_give_the_output_and_gradients_of_padded_ones_to_1e_5(
    small, randomise, captioned, x_t, t, monkeypatch, mask
):
    model = randomise(small())
    cond = told(captioned, torch.tensor(mask, dtype=torch.bool))
    packed = learnt(model, x_t, t, cond)
    given = []
    for places in (None, places_of(cond.mask)):  # as on a GPU, which does not look
        monkeypatch.setattr(dit, "located", lambda tokens, mask, _, places=places: (tokens, mask, places))
        given.append(learnt(model, x_t, t, cond))
    for padded in given:
        for ours, theirs in zip(packed, padded, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_of_7_real_tokens_among_12_the_7_are_projected_in_every_layer(small, captioned, x_t, t):
    model, rows = small(), []
    for layer in (model.y_embedder.y_proj, *(block.cross_attn.kv_linear for block in model.blocks)):
        layer.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[:-1].numel()))
    model(x_t, t, told(captioned, torch.tensor(MASKS["ragged"], dtype=torch.bool)))
    assert rows == [7, 7, 7]


@settings(deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=50, max_size=50), min_size=1, max_size=4))
def test_places_on_the_cpu_are_all_that_count_and_of_many_one_more_than_steps_or_all(mask):
    tokens, cut, places = located(torch.randn(len(mask), 50, 3), torch.tensor(mask), None)
    assert tokens.shape[:2] == cut.shape
    assert places is not None
    needed = places_of(cut)
    if len(needed) <= STEP:
        assert torch.equal(places, needed)
    else:
        assert len(places) % STEP == 1 or len(places) == cut.numel()
        assert len(places) - len(needed) < STEP
    assert set(needed.tolist()) <= set(places.tolist()) <= set(range(cut.numel()))
    assert places.tolist() == sorted(set(places.tolist()))


def test_captions_filled_up_to_a_step_give_the_output_and_gradients_of_padded_ones_to_1e_5(
    small, randomise, captioned, x_t, t, monkeypatch
):
    model = randomise(small())
    mask = torch.zeros(2, 40, dtype=torch.bool)
    mask[0, :34], mask[1, 5:9] = True, True
    cond = told(captioned._replace(tokens=torch.randn(2, 40, captioned.tokens.shape[2])), mask)
    rows = []
    hook = model.y_embedder.y_proj.register_forward_pre_hook(
        lambda _, inputs: rows.append(inputs[0].shape[:-1].numel())
    )
    filled = learnt(model, x_t, t, cond)
    hook.remove()
    assert rows == [2 * STEP + 1]
    monkeypatch.setattr(dit, "located", lambda tokens, mask, _: (tokens, mask, None))
    for ours, theirs in zip(filled, learnt(model, x_t, t, cond), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_places_are_the_real_tokens_and_the_first_of_a_caption_that_has_none():
    assert places_of(torch.tensor(MASKS["one empty"], dtype=torch.bool)).tolist() == [0, 6, 7, 8]
    assert places_of(torch.tensor(MASKS["with holes"], dtype=torch.bool)).tolist() == [1, 3, 6, 10]


def test_places_of_2_batches_joined_are_those_of_the_joined_mask():
    def captions(mask: list[list[int]]) -> Conditioning:
        real = torch.tensor(mask, dtype=torch.bool)
        return Conditioning(tokens=torch.zeros(*real.shape, 3), mask=real, places=places_of(real))

    long, short = captions(MASKS["one empty"]), captions([[1, 0], [1, 1], [0, 0]])
    for joined in (concatenate(long, short), concatenate(short, long)):
        assert joined.mask is not None
        assert joined.places is not None
        assert torch.equal(joined.places, places_of(joined.mask))
    assert concatenate(long._replace(places=None), short).places is None
