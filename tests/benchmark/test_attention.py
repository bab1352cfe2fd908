"""Every way to compute attention is timed at every shape, and those that cannot run here are named."""

from pathlib import Path

import pytest
import torch
from measuring import measured

from pixart.benchmark import attention
from pixart.benchmark.attention import Inputs, _refusal, _way
from pixart.benchmark.candidates import candidates, laid_out
from pixart.models.attention import BACKENDS

TINY = [
    *("device=cpu", "model.dim=48", "model.num_heads=4", "text={dim:20,mean:3,longest:6}"),
    *("cpu.images.px256={resolution:32,batch:2}", "cpu.images.px512={resolution:64,batch:1}"),
    "cpu.images.px1024={resolution:32,batch:1}",
]


def test_every_shape_has_forward_and_backward_of_every_backend_that_runs_here(tmp_path: Path):
    said: list[str] = []
    figures = measured("attention", tmp_path, *TINY, said=said)
    for direction in ("forward", "forward and backward"):
        assert figures[f"self attention, px256, 2 x 4 queries, 4 keys: sdpa, {direction}"].value > 0
        assert figures[f"cross attention, px512, 1 x 16 queries, 6 keys: sdpa, {direction}"].value > 0
        assert figures[f"cross attention, px256, 2 x 4 queries, 6 keys: sdpa without a mask, {direction}"].value > 0
    assert "backend xformers: not on this device" in said
    assert any("variable lengths" in line for line in said)


def test_a_way_that_fails_or_computes_something_else_is_refused_with_its_reason():
    q, k, v = (torch.randn(1, 4, 2, 8, requires_grad=True) for _ in range(3))
    inputs = Inputs(q, k, v, None)
    expected = BACKENDS["sdpa"].attend(q, k, v, None)

    def fails() -> torch.Tensor:
        raise RuntimeError("no kernel for head size 72\nat length")

    assert _refusal(lambda: BACKENDS["sdpa"].attend(q, k, v, None), expected, inputs) is None
    assert _refusal(fails, expected, inputs) == "no kernel for head size 72"
    assert str(_refusal(lambda: 2 * BACKENDS["sdpa"].attend(q, k, v, None), expected, inputs)).startswith(
        "it computes something else"
    )


def test_3_kernels_of_sdpa_are_candidates_each_by_itself_or_refused():
    ways = candidates(torch.device("cuda"))
    assert [name for name in ways if name.startswith("sdpa ")] == ["sdpa flash", "sdpa cudnn", "sdpa efficient"]
    q, k, v = (torch.randn(1, 4, 2, 8, requires_grad=True) for _ in range(3))
    inputs = Inputs(q, k, v, None)
    expected = BACKENDS["sdpa"].attend(q, k, v, None)
    refusals = {name: _refusal(_way(ways[name], inputs), expected, inputs) for name in ("sdpa flash", "sdpa efficient")}
    assert refusals["sdpa flash"] is None  # torch has this one for the CPU, and not the other
    assert "No viable backend" in str(refusals["sdpa efficient"])


def test_every_shape_begins_without_the_graphs_of_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    order: list[str] = []
    monkeypatch.setattr(attention, "forget_compiled", lambda: order.append("forgotten"))
    monkeypatch.setattr(attention, "_compared", lambda _, inputs, *__: order.append(str(inputs.q.shape[1])) or ())
    measured("attention", tmp_path, *TINY)
    assert order == ["forgotten", "4", "4", "forgotten", "16", "16", "forgotten", "4", "4"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", ["torch flex", "torch varlen", "sdpa efficient"])
def test_torch_s_other_ways_equal_sdpa_on_captions_of_3_and_9_tokens(name: str):
    device = torch.device("cuda")
    backend = candidates(device)[name]
    q = torch.randn(2, 64, 16, 72, device=device, dtype=torch.bfloat16)
    k, v = (torch.randn(2, 16, 16, 72, device=device, dtype=torch.bfloat16) for _ in range(2))
    mask = torch.arange(16, device=device) < torch.tensor([[3], [9]], device=device)
    values = []
    for way in (backend, BACKENDS["sdpa"]):
        padding = way.prepare(mask, 64, None)
        values.append(way.attend(q, *laid_out(way, k, v, padding), padding))
    torch.testing.assert_close(values[0], values[1], atol=2e-2, rtol=2e-2)


def test_keys_and_values_are_laid_out_as_sdpa_takes_them_with_zeros_for_a_caption_without_tokens():
    k, v = (torch.randn(2, 4, 2, 8) for _ in range(2))
    backend, mask = BACKENDS["sdpa"], torch.tensor([[True, True, False, False], [False] * 4])
    laid_k, laid_v = laid_out(backend, k, v, backend.prepare(mask, 4, None))
    assert torch.equal(laid_k[0], k[0])
    assert not laid_v[1].any()
    assert laid_out(backend, k, v, None)[0] is k
