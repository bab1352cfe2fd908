"""Laws of the linear layers: oneDNN's products are torch's, gradients included, and are asked for where they pay."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from pixart.models import linear as module
from pixart.models.linear import Linear, make_mlp

WIDE = 384


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The shapes of weights that oneDNN is asked for, whether this machine has it or not."""
    seen: list[tuple[Any, ...]] = []

    def product(x: Tensor, weight: Tensor, bias: Tensor | None, then: str, *_: Any) -> Tensor:
        seen.append(tuple(weight.shape) if then == "none" else (*weight.shape, then))
        result = F.linear(x, weight, bias)
        return result if then == "none" else F.gelu(result, approximate="tanh")

    monkeypatch.setattr(module, "ONEDNN", product)
    monkeypatch.setattr(module, "MKL_IS_SLOW", False)
    monkeypatch.setattr(module, "NARROWEST", module.WIDE)
    return seen


def gradients(function: Callable[..., Tensor], *inputs: Tensor | None) -> list[Tensor]:
    """The result of ``function``, and of its square those of each input."""
    given = [None if x is None else x.detach().requires_grad_() for x in inputs]
    result = function(*given)
    return [result.detach(), *torch.autograd.grad(result.square().sum(), [x for x in given if x is not None])]


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.integers(0, 5), min_size=1, max_size=3),
    sides=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    bias=st.booleans(),
    turned=st.booleans(),
    slow=st.booleans(),
)
def test_result_and_gradients_are_torch_s_to_1e_5_of_the_largest(rows, sides, bias, turned, slow):
    k, n = sides
    made = torch.Generator().manual_seed(k * n)
    x, weight = torch.randn(*rows, k, generator=made), torch.randn(n, k, generator=made)
    if turned:
        x, weight = x.transpose(0, -2), weight.t().contiguous().t()
    b = torch.randn(n, generator=made) if bias else None
    with mock.patch.object(module, "MKL_IS_SLOW", slow):
        found = gradients(module.product, x, weight, b)
    for ours, theirs in zip(found, gradients(F.linear, x, weight, b), strict=True):
        assert ours.shape == theirs.shape
        if theirs.numel():
            assert (ours - theirs).abs().max() <= 1e-5 * max(1.0, float(theirs.abs().max()))


def test_a_gradient_of_no_memory_of_its_own_is_taken():
    x, weight = torch.randn(3, 5, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    module.product(x, weight, None).sum().backward()  # ones, all of them one number
    assert x.grad is not None
    torch.testing.assert_close(x.grad, weight.detach().sum(0).expand(3, 5))


def test_inputs_of_no_memory_of_their_own_are_taken():
    x, weight = torch.randn(1, 7).expand(3, 7), torch.randn(1, 1).expand(4, 7)
    bias = torch.randn(4, 2)[:, 0]
    torch.testing.assert_close(module.product(x, weight, bias), F.linear(x, weight, bias), rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(
        gradients(module.product, x, weight, None), gradients(F.linear, x, weight, None), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_gradients_of_gradients_are_torch_s():
    x, weight = torch.randn(3, 5), torch.randn(4, 5)
    found = []
    for function in (module.product, F.linear):
        a, b = x.clone().requires_grad_(), weight.clone().requires_grad_()
        (first,) = torch.autograd.grad(function(a, b, None).pow(3).sum(), a, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), [a, b]))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_functional_gradients_are_torch_s():
    x, weight = torch.randn(3, 5), torch.randn(4, 5)
    ours, theirs = (
        torch.func.grad(lambda w, f=function: f(x, w, None).pow(2).sum())(weight)
        for function in (module.product, F.linear)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_weights_that_do_not_learn_get_no_gradient(asked):
    layer = Linear(WIDE, WIDE).requires_grad_(False)
    x = torch.randn(2, WIDE, requires_grad=True)
    layer(x).sum().backward()
    assert asked == [(WIDE, WIDE)] * 2  # forward, and the input's gradient
    assert layer.weight.grad is None


@pytest.mark.parametrize(("learns", "of_x"), [(False, True), (True, False), (True, True), (False, False)])
def test_what_is_kept_for_the_gradients_is_what_they_are_made_of(learns, of_x):
    layer = Linear(WIDE, WIDE)
    layer.weight.requires_grad_(learns)
    x, kept = torch.randn(2, WIDE, requires_grad=of_x), []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda _: None):
        layer(x)
    expected = [tensor for tensor, wanted in ((x, learns), (layer.weight, of_x)) if wanted]
    assert [one.data_ptr() for one in kept if one is not None] == [one.data_ptr() for one in expected]


def test_wide_layers_in_float32_alone_ask_for_onednn(asked):
    x = torch.randn(2, WIDE)
    wide, narrow = Linear(WIDE, WIDE), Linear(WIDE, WIDE - 1)
    assert torch.equal(narrow(x), F.linear(x, narrow.weight, narrow.bias))
    with torch.autocast("cpu", torch.bfloat16):
        assert wide(x).dtype is torch.bfloat16
    wide.bfloat16()(x.bfloat16())
    Linear(WIDE, WIDE, device="meta")(x.to("meta"))
    assert asked == []
    make_mlp(WIDE, 2 * WIDE, WIDE)(x)
    assert asked == [(2 * WIDE, WIDE), (WIDE, 2 * WIDE)]


@pytest.mark.parametrize(
    ("slow", "rows", "sides", "gradients_asked"),
    [
        (False, 5, (WIDE, 2 * WIDE), []),
        (False, 5, (2 * WIDE, WIDE), [(2 * WIDE, 5)]),
        (True, 5, (WIDE, 2 * WIDE), [(WIDE, 5)]),
        (True, 5, (2 * WIDE, WIDE), [(2 * WIDE, 5)]),
        (True, WIDE, (WIDE, 2 * WIDE), [(2 * WIDE, WIDE)]),  # turned
        (True, WIDE, (2 * WIDE, WIDE), [(2 * WIDE, WIDE)]),  # not
    ],
)
def test_gradients_of_weights_ask_for_onednn_where_that_is_faster(
    asked, monkeypatch, slow, rows, sides, gradients_asked
):
    monkeypatch.setattr(module, "MKL_IS_SLOW", slow)
    k, n = sides
    x, gradient = torch.randn(rows, k), torch.randn(rows, n)
    found = module.weight_gradient(gradient, x)
    assert asked == gradients_asked
    assert found.is_contiguous()
    torch.testing.assert_close(found, gradient.t() @ x, rtol=1e-4, atol=1e-4)
    layer = Linear(k, n)
    layer(x).backward(gradient)
    assert torch.equal(layer.weight.grad, found)


def test_gradients_of_narrow_weights_and_in_half_precision_do_not(asked):
    narrow, wide = torch.randn(3, WIDE - 1), torch.randn(3, 2 * WIDE)
    assert torch.equal(module.weight_gradient(narrow, wide), narrow.t() @ wide)
    module.weight_gradient(wide.bfloat16(), wide.bfloat16())
    assert asked == []


@pytest.mark.parametrize(
    ("has", "slow"),
    [
        ({"sse4a": True, "avx512_f": True, "avx_vnni": True}, True),  # Zen 5
        ({"sse4a": True, "avx512_f": True, "avx_vnni": False}, False),  # Zen 4
        ({"sse4a": False, "avx512_f": True, "avx_vnni": True}, False),  # Intel's
        ({"architecture": "aarch64"}, False),
    ],
)
def test_mkl_is_slow_on_zen_5(monkeypatch, has, slow):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert module._leaves_half_idle() is slow


def test_narrow_layers_ask_for_onednn_for_many_rows_alone(asked, monkeypatch):
    monkeypatch.setattr(module, "NARROWEST", 96)
    layer = Linear(96, 100)
    layer(torch.randn(module.MANY - 1, 96))
    Linear(95, 100)(torch.randn(module.MANY, 95))
    assert asked == []
    layer(torch.randn(2, module.MANY // 2, 96))
    assert asked == [(100, 96)]


def test_an_input_of_the_wrong_width_is_refused_with_both_shapes():
    with pytest.raises(RuntimeError, match="2x383 and 384x500"):
        Linear(WIDE, 500)(torch.randn(2, WIDE - 1))


def test_gradients_of_each_sample_are_torch_s():
    x, weight = torch.randn(3, 2, 5), torch.randn(4, 5)
    ours, theirs = (
        torch.func.vmap(torch.func.grad(lambda w, x, f=function: f(x, w, None).pow(2).sum()), (None, 0))(weight, x)
        for function in (module.product, F.linear)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_without_onednn_the_layer_is_torch_s_to_the_bit(monkeypatch):
    monkeypatch.setattr(module, "ONEDNN", None)
    x, layer = torch.randn(2, WIDE), Linear(WIDE, WIDE)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    assert torch.equal(module.product(x, layer.weight, layer.bias), F.linear(x, layer.weight, layer.bias))


@pytest.mark.usefixtures("asked")
def test_torch_s_counter_sees_its_operations():
    layer = Linear(WIDE, 2 * WIDE)
    with FlopCounterMode(display=False) as counter:
        layer(torch.randn(2, 3, WIDE, requires_grad=True)).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 6 * WIDE * 2 * WIDE


def test_compiled_it_is_the_same_and_1_graph_for_every_number_of_rows():
    layer = Linear(WIDE, WIDE)
    graphs: list[object] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(layer, backend=backend, dynamic=True, fullgraph=True)
    for rows in (2, 5, 9):
        x = torch.randn(rows, WIDE)
        assert torch.equal(compiled(x), layer(x))
    assert len(graphs) == 1


def test_a_model_s_wide_layers_are_all_of_this_kind(small):
    with torch.device("meta"):
        model = small(dim=WIDE, num_heads=4, text_dim=WIDE)
    blocks = [layer for layer in model.blocks.modules() if isinstance(layer, torch.nn.Linear)]
    assert len(blocks) == 7 * len(model.blocks)
    assert all(
        isinstance(layer, Linear) for layer in [*blocks, model.y_embedder.y_proj.fc1, model.y_embedder.y_proj.fc2]
    )


@pytest.mark.parametrize("rows", [(), (3,), (2, 5), (0, 4)])
def test_gelu_of_a_product_is_torch_s_to_1e_6(rows: tuple[int, ...]):
    made = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*size, generator=made) for size in ((*rows, WIDE), (40, WIDE), (40,)))
    expected = F.gelu(F.linear(x, weight / WIDE**0.5, bias), approximate="tanh")
    found = torch.ops.pixart.linear(x, weight / WIDE**0.5, bias, gelu=True)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)


def test_an_mlp_that_nobody_differentiates_takes_gelu_with_the_product_and_its_operations_are_counted(
    asked: list[tuple[Any, ...]],
):
    mlp, x = make_mlp(WIDE, 2 * WIDE, WIDE), torch.randn(2, 3, WIDE)
    with torch.no_grad():
        found = mlp(x)
        assert asked == [(2 * WIDE, WIDE, "gelu"), (WIDE, 2 * WIDE)]
        with FlopCounterMode(display=False) as counter:
            torch.ops.pixart.linear(x, mlp.fc1.weight, mlp.fc1.bias, gelu=True)
        assert counter.get_total_flops() == 2 * 6 * WIDE * 2 * WIDE
        asked.clear()
        hook = mlp.fc1.register_forward_hook(lambda *_: None)
        torch.testing.assert_close(mlp(x), found, rtol=1e-5, atol=1e-6)
        hook.remove()

        class Adapted(Linear):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x) + 1

        mlp.fc1.__class__ = Adapted
        assert not torch.allclose(mlp(x), found)
        mlp.fc1.__class__ = Linear
        torch.testing.assert_close(mlp(x.bfloat16().float()), found, rtol=0.1, atol=0.1)
    assert [one for one in asked if "gelu" in one] == [(2 * WIDE, WIDE, "gelu")]
    asked.clear()
    torch.testing.assert_close(mlp(x), found, rtol=1e-5, atol=1e-6)
    assert asked == [(2 * WIDE, WIDE), (WIDE, 2 * WIDE)]


@pytest.mark.parametrize("changed", ["forward of its own", "another activation", "hook on the activation"])
def test_what_3_changes_of_an_mlp_do_without_gradients_is_what_they_do_with_them(changed: str) -> None:
    mlp = make_mlp(WIDE, WIDE, WIDE)
    x = torch.randn(4, WIDE, generator=torch.Generator().manual_seed(0))
    if changed == "forward of its own":  # as accelerate hooks a layer
        plain = mlp.fc1.forward
        mlp.fc1.forward = lambda given: plain(given) + 100
    elif changed == "another activation":
        mlp.act = nn.ReLU()
    else:
        mlp.act.register_forward_hook(lambda *told: told[2] + 1)
    learning = mlp(x)
    with torch.no_grad():
        torch.testing.assert_close(mlp(x), learning, rtol=1e-5, atol=1e-5)


def test_weights_that_accelerate_keeps_elsewhere_multiply_as_they_are_with_and_without_gradients() -> None:
    from accelerate import cpu_offload

    mlp = make_mlp(WIDE, WIDE, WIDE)
    x = torch.randn(4, WIDE, generator=torch.Generator().manual_seed(0))
    expected = mlp(x)
    cpu_offload(mlp, execution_device=torch.device("cpu"))
    torch.testing.assert_close(mlp(x), expected)
    with torch.no_grad():
        torch.testing.assert_close(mlp(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("learning", [True, False])
def test_derivatives_in_forward_mode_are_those_of_plain_layers(learning):
    ours = make_mlp(WIDE, 2 * WIDE, WIDE)
    plain = nn.Sequential(nn.Linear(WIDE, 2 * WIDE), nn.GELU("tanh"), nn.Linear(2 * WIDE, WIDE))
    plain.load_state_dict(dict(zip(plain.state_dict(), ours.state_dict().values(), strict=True)))
    x, tangent = torch.randn(2, WIDE), torch.randn(2, WIDE)
    with torch.set_grad_enabled(learning):
        found = [torch.func.jvp(each, (x,), (tangent,))[1] for each in (ours, plain)]
    assert found[1].abs().max() > 0.01
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_a_hook_on_all_modules_sees_every_layer_of_an_mlp_without_gradients():
    mlp, seen = make_mlp(WIDE, 2 * WIDE, WIDE), list[str]()
    hook = nn.modules.module.register_module_forward_hook(lambda one, *_: seen.append(type(one).__name__))
    try:
        with torch.no_grad():
            mlp(torch.randn(2, WIDE))
    finally:
        hook.remove()
    assert seen.count("Linear") == 2
    assert "GELU" in seen
