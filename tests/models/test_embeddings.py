import copy

import numpy as np
import pytest
import torch

from pixart.models.embeddings import NumberEmbedder, Positions, sinusoids


def test_sinusoids_are_128_cosines_then_128_sines_from_frequency_1_down():
    values = sinusoids(torch.tensor([500.0]))[0]
    k = np.arange(128)
    angles = 500.0 * 10000.0 ** (-k / 128)
    np.testing.assert_allclose(values.numpy(), np.concatenate([np.cos(angles), np.sin(angles)]), atol=1e-4)
    assert sinusoids(torch.tensor([0])).tolist() == [[1.0] * 128 + [0.0] * 128]


def test_sinusoids_keep_the_fraction_of_a_timestep():
    a, b = sinusoids(torch.tensor([949.05, 949.0]))
    assert (a - b).abs().max() > 0.04


def test_two_numbers_are_embedded_side_by_side():
    embedder = NumberEmbedder(6)
    vectors = embedder(torch.tensor([[512.0, 768.0]]))
    torch.testing.assert_close(vectors[0, :6], embedder(torch.tensor([512.0]))[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(vectors[0, 6:], embedder(torch.tensor([768.0]))[0], rtol=1e-5, atol=1e-6)


def reference(height: int, width: int, dim: int, base: int, scale: float) -> np.ndarray:
    frequencies = 10000.0 ** (-np.arange(dim // 4) / (dim // 4))
    table = np.empty((height * width, dim))
    for row in range(height):
        for column in range(width):
            x, y = column * base / width / scale, row * base / height / scale
            parts = [np.sin(x * frequencies), np.cos(x * frequencies), np.sin(y * frequencies), np.cos(y * frequencies)]
            table[row * width + column] = np.concatenate(parts)
    return table


@pytest.mark.parametrize(("height", "width", "base", "scale"), [(4, 4, 4, 1.0), (3, 7, 4, 2.0), (16, 16, 8, 1.0)])
def test_positions_tell_the_column_first_and_the_row_second(height, width, base, scale):
    table = Positions(dim=24, base_size=base, interpolation_scale=scale)(height, width, torch.device("cpu"))
    np.testing.assert_allclose(table.numpy(), reference(height, width, 24, base, scale), atol=2e-6)
    assert table.dtype == torch.float32


def test_positions_are_computed_once_per_axis_and_are_in_no_state_dict():
    positions = Positions(dim=24, base_size=4, interpolation_scale=1.0)
    device = torch.device("cpu")
    first = positions(4, 6, device)
    kept = dict(positions._axes)
    assert torch.equal(positions(4, 6, device), first)
    assert all(positions._axes[key] is table for key, table in kept.items())
    assert not positions.state_dict()
    assert not list(positions.buffers())
    assert torch.equal(copy.deepcopy(positions)(4, 6, device), first)
