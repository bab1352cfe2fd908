"""Muon: orthogonal steps of the matrices, whole or sharded, and a state that comes back."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode

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


@pytest.mark.parametrize("found_inf", [None, 0.0])
def test_2_steps_of_3_matrices_are_the_published_ones_written_out(found_inf: float | None) -> None:
    gradients = torch.randn(2, 3, 6, 4)
    parameters = [torch.randn(6, 4).requires_grad_() for _ in range(3)]
    optimizer = Muon([{"params": parameters, "matrices": True, "momentum": 0.9, "weight_decay": 0.5}], lr=0.1)
    if found_inf is not None:
        optimizer.found_inf = torch.tensor(found_inf)
    expected, momentum = torch.stack([x.detach().clone() for x in parameters]), torch.zeros(3, 6, 4)
    for given in gradients:
        for parameter, gradient in zip(parameters, given, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        assert all(torch.equal(x.grad, gradient) for x, gradient in zip(parameters, given, strict=True))
        momentum = 0.9 * momentum + 0.1 * given
        ahead = 0.9 * momentum + 0.1 * given
        expected = expected - 0.1 * (1.5**0.5 * orthogonal(ahead) + 0.5 * expected)
    torch.testing.assert_close(torch.stack([x.detach() for x in parameters]), expected)


def test_gradients_that_are_not_finite_change_neither_matrix_nor_state_where_they_were_found() -> None:
    parameters = [torch.randn(6, 4).requires_grad_() for _ in range(3)]
    optimizer = Muon([{"params": parameters, "matrices": True, "momentum": 0.9, "weight_decay": 0.5}], lr=0.1)

    def stepped(first: float, found_inf: float) -> list[torch.Tensor]:
        for parameter in parameters:
            parameter.grad = torch.ones(6, 4)
        assert parameters[0].grad is not None
        parameters[0].grad[0, 0] = first
        optimizer.found_inf = torch.tensor(found_inf)
        optimizer.step()
        return [x.detach().clone() for p in parameters for x in (p, *optimizer.state[p].values())]

    for first in (torch.nan, torch.inf):
        before = stepped(1.0, 0.0)
        assert all(torch.equal(a, b) for a, b in zip(before, stepped(first, 1.0), strict=True))


def test_sharded_matrices_step_as_whole_ones_do_to_the_bit(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        ended = []
        for spread in (lambda x: x, lambda x: distribute_tensor(x, mesh, [Shard(0)])):
            draws = torch.Generator().manual_seed(0)
            parameters = [spread(torch.randn(6, 4, generator=draws)).requires_grad_() for _ in range(3)]
            optimizer = Muon([{"params": parameters, "matrices": True, "momentum": 0.9, "weight_decay": 0.5}], lr=0.1)
            for found_inf in (0.0, 1.0, 0.0):
                for parameter in parameters:
                    parameter.grad = spread(torch.randn(6, 4, generator=draws))
                optimizer.found_inf = torch.tensor(found_inf)
                optimizer.step()
            ended.append([getattr(x, "full_tensor", x.detach)() for x in parameters])
        assert all(torch.equal(whole, sharded) for whole, sharded in zip(*ended, strict=True))
    finally:
        dist.destroy_process_group()


class Computed(TorchDispatchMode):
    """How many operators computed something, rather than look at it otherwise."""

    count = 0

    def __torch_dispatch__(self, operator, _types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += not operator.is_view
        return operator(*args, **(kwargs or {}))


def test_10_more_matrices_of_a_shape_take_at_most_2_more_operators_each() -> None:
    def operators(matrices: int) -> int:
        parameters = [torch.randn(8, 8).requires_grad_() for _ in range(matrices)]
        optimizer = Muon([{"params": parameters, "matrices": True, "momentum": 0.9, "weight_decay": 0.1}], lr=0.1)
        optimizer.found_inf = torch.tensor(0.0)
        for _ in range(2):
            for parameter in parameters:
                parameter.grad = torch.randn(8, 8)
            with Computed() as computed:
                optimizer.step()
        return computed.count

    assert operators(12) - operators(2) <= 2 * 10


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
