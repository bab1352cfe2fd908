"""Muon: orthogonal steps of the matrices, whole or sharded, and a state that comes back."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pixart.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 12, 48), (1, 48, 12)])
def test_singular_values_of_an_orthogonal_step_lie_from_0_6_to_1_3(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrices))
    assert values[matrices.svd()[1] > 0.1 * matrices.svd()[1].amax()].min() > 0.6
    assert values.max() < 1.3


def test_a_matrix_comes_out_the_same_alone_and_beside_others() -> None:
    matrices = torch.randn(5, 16, 40)
    torch.testing.assert_close(orthogonal(matrices)[3:4], orthogonal(matrices[3:4]))


def muon_of(parameter: torch.Tensor, **more: float) -> Muon:
    group = {"params": [parameter], "matrices": True, "momentum": 0.9, "weight_decay": 0.0, **more}
    return Muon([group], lr=0.1, fused=True)


def test_the_first_step_is_the_orthogonal_gradient_times_the_rate_and_the_root_of_rows_per_column() -> None:
    parameter = torch.zeros(32, 8, requires_grad=True)
    gradient = torch.randn(32, 8)
    parameter.grad = gradient.clone()
    muon_of(parameter).step()
    torch.testing.assert_close(parameter.detach(), -0.1 * 2.0 * orthogonal(gradient[None])[0])


def test_weight_decay_shrinks_a_matrix_by_the_rate_times_the_decay() -> None:
    parameter = torch.eye(8).requires_grad_()
    parameter.grad = torch.zeros(8, 8)
    muon_of(parameter, weight_decay=0.5).step()
    torch.testing.assert_close(parameter.detach(), torch.eye(8) * 0.95)


def test_6_steps_equal_3_and_3_with_the_state_handed_on() -> None:
    gradients = torch.randn(6, 8, 8)

    def walked(cuts: tuple[int, ...]) -> torch.Tensor:
        parameter, state, done = torch.eye(8).requires_grad_(), None, 0
        for length in cuts:
            optimizer = muon_of(parameter)
            if state is not None:
                optimizer.load_state_dict(state)
            for gradient in gradients[done : done + length]:
                parameter.grad = gradient.clone()
                optimizer.step()
            state, done = optimizer.state_dict(), done + length
        return parameter.detach()

    assert torch.equal(walked((6,)), walked((3, 3)))


def test_a_kernel_moves_as_the_matrix_of_its_output_channels() -> None:
    kernel, matrix = torch.zeros(16, 4, 3, 3, requires_grad=True), torch.zeros(16, 36, requires_grad=True)
    gradient = torch.randn(16, 36)
    kernel.grad, matrix.grad = gradient.view(16, 4, 3, 3).clone(), gradient.clone()
    muon_of(kernel).step()
    muon_of(matrix).step()
    torch.testing.assert_close(kernel.detach().flatten(1), matrix.detach())


@pytest.mark.parametrize("ranks", [2, 3, 6])
def test_ranks_share_the_matrices_out_and_end_as_one_rank_alone_would(ranks: int, tmp_path: Path) -> None:
    for together in (1, ranks):
        script = str(Path(__file__).with_name("orthogonal_together.py"))
        subprocess.run([sys.executable, script, str(tmp_path), str(together)], check=True)
    alone = load_file(tmp_path / "1_0.safetensors")
    assert alone.pop("asked") == 3 * (5 + 2)
    asked = 0
    for rank in range(ranks):
        ended = load_file(tmp_path / f"{ranks}_{rank}.safetensors")
        asked += int(ended.pop("asked"))
        assert all(torch.equal(ended[name], alone[name]) for name in alone)
    assert asked == 3 * (5 + 2)
