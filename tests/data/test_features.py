"""Features: what is packed comes back, to the bit or to a stated error, and damage is told."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pixart.data.features import dequantised, pack, padded, quantised, unpack


def _states(length: int, dim: int = 64, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((length, dim), dtype=np.float32)


MOMENTS = np.random.default_rng(1).standard_normal((8, 4, 6)).astype(np.float32)


def test_moments_come_back_as_their_float16_and_states_as_their_bfloat16() -> None:
    features = unpack(pack(MOMENTS, [_states(5), _states(1)], dtype="bfloat16"))
    assert features.moments is not None
    np.testing.assert_array_equal(features.moments, MOMENTS.astype(np.float16))
    states, scales, mask = padded(features.states, features.scales, max_tokens=7)
    assert scales is None
    assert states.dtype == torch.bfloat16
    assert torch.equal(states[0, :5], torch.from_numpy(_states(5)).bfloat16())
    assert mask.sum(1).tolist() == [5, 1]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12), st.floats(1e-6, 1e6))
def test_int8_is_never_off_by_more_than_a_254th_of_the_tokens_largest(seed: int, length: int, size: float) -> None:
    states = _states(length, 32, seed) * np.float32(size)
    levels, scales = quantised(states)
    error = np.abs(levels * scales[:, None] - states)
    assert (error <= np.abs(states).max(axis=1, keepdims=True) / 254 * 1.0001).all()


def test_normal_tokens_of_width_4096_lose_less_than_1_percent_to_int8_on_average() -> None:
    states = _states(40, 4096)
    levels, scales = quantised(states)
    lost = np.linalg.norm(levels * scales[:, None] - states, axis=1) / np.linalg.norm(states, axis=1)
    assert 0.005 < lost.mean() < 0.01


def test_a_token_of_zeros_stays_zero() -> None:
    features = unpack(pack(None, [np.zeros((2, 8), np.float32)], dtype="int8"))
    assert features.moments is None
    assert not features.states[0].any()
    assert not features.scales[0].any()


def test_a_batch_of_int8_states_is_padded_with_zeros_and_dequantised_to_the_same_values() -> None:
    packed = [unpack(pack(MOMENTS, [_states(n, seed=n)], dtype="int8")) for n in (3, 6)]
    states, scales, mask = padded([p.states[0] for p in packed], [p.scales[0] for p in packed], max_tokens=8)
    assert states.dtype == torch.int8
    assert scales is not None
    assert scales.shape == (2, 8, 1)
    values = dequantised(states, scales)
    assert values.dtype == torch.float32
    assert not values[~mask].any()
    for i, n in enumerate((3, 6)):
        np.testing.assert_allclose(values[i, :n], _states(n, seed=n), atol=0.02)


def test_views_share_the_memory_of_the_buffer_at_any_offset() -> None:
    data = pack(MOMENTS, [_states(4)], dtype="int8")
    around = b"x" * 3 + data + b"y" * 5
    features = unpack(memoryview(around)[3 : 3 + len(data)])
    assert np.shares_memory(features.states[0], np.frombuffer(around, np.uint8))
    np.testing.assert_array_equal(features.states[0], unpack(data).states[0])


def test_the_member_is_a_safetensors_file_that_the_library_reads() -> None:
    from safetensors.torch import load

    tensors = load(pack(MOMENTS, [_states(4), _states(2)], dtype="int8"))
    assert {name: (tuple(x.shape), x.dtype) for name, x in tensors.items()} == {
        "moments": ((8, 4, 6), torch.float16),
        "states.0": ((4, 64), torch.int8),
        "scales.0": ((4,), torch.float32),
        "states.1": ((2, 64), torch.int8),
        "scales.1": ((2,), torch.float32),
    }


@pytest.mark.parametrize("where", [4, 9, 40, -1])
def test_a_member_cut_short_or_scrambled_is_one_sentence(where: int) -> None:
    data = pack(MOMENTS, [_states(4)], dtype="int8")
    with pytest.raises(ValueError, match="features cannot be read"):
        unpack(data[:where])
    with pytest.raises(ValueError, match="features cannot be read"):
        unpack(b"no features in here, only text, and quite a lot of it")


def test_numbers_that_are_not_finite_are_refused_with_the_mend() -> None:
    with pytest.raises(ValueError, match=r"states of caption 1 are not all finite.*bf16 or fp32"):
        pack(None, [_states(2), np.full((1, 64), np.nan, np.float32)], dtype="int8")
    with pytest.raises(ValueError, match="moments as float16 are not all finite"):
        pack(MOMENTS * 1e6, [], dtype="int8")


def test_a_caption_longer_than_max_tokens_and_mixed_kinds_are_refused() -> None:
    int8, bf16 = (unpack(pack(None, [_states(4)], dtype=dtype)) for dtype in ("int8", "bfloat16"))
    with pytest.raises(ValueError, match="4 tokens where max_tokens is 3"):
        padded(int8.states, int8.scales, max_tokens=3)
    with pytest.raises(ValueError, match="different kinds"):
        padded([*int8.states, *bf16.states], int8.scales, max_tokens=4)
