"""The linear layers that take nearly all of a model's time: on a CPU their products are computed by oneDNN.

torch has two libraries of matrix products on x86 and takes MKL for float32. With AVX-512 oneDNN is faster at forward
products and at gradients of inputs from 384 features on, and at some gradients of weights; on AMD's Zen 5 at all three,
of many rows from 96 on: docs/performance.md.

Letters: M rows of all leading sizes together, K input features, N output features.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.layers import Mlp
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook
from torch.utils.flop_counter import register_flop_formula

OPERATOR = "pixart::linear"


def _leaves_half_idle() -> bool:
    """Whether MKL multiplies 256 bits at once where the processor can 512: AMD's, from Zen 5 on."""
    has = torch.cpu.get_capabilities()
    return bool(has.get("sse4a") and has.get("avx512_f") and has.get("avx_vnni"))


MKL_IS_SLOW = _leaves_half_idle()
# Features on both sides from which oneDNN has been measured to be faster; below WIDE of MANY rows alone, since to ask
# it takes 30 us more, and 110 with the gradients.
WIDE, MANY = 384, 1024
NARROWEST = 96 if MKL_IS_SLOW else WIDE


def _onednn() -> Callable[..., Tensor] | None:
    """What torch.compile too calls for a frozen linear layer; None where it is missing, or was not measured."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX512")):
        return None
    found = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    return None if found is None else found.default


ONEDNN = _onednn()


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    """``x`` (..., K), ``weight`` (N, K), ``bias`` (N,) or None, all with any strides -> (..., N), contiguous.

    With ``gelu`` its GELU by tanh, taken of each piece while that is in the cache.
    """
    if ONEDNN is None or not x.numel() or x.shape[-1] != weight.shape[1]:  # which torch refuses, naming both shapes
        result = F.linear(x, weight, bias)
        return F.gelu(result, approximate="tanh") if gelu else result
    if bias is None and not gelu and _better_turned(x, weight):
        return ONEDNN(weight, x, None, "none", [], "").t().contiguous()
    then: tuple[str, list[Any], str] = ("gelu", [], "tanh") if gelu else ("none", [], "")
    return ONEDNN(_dense(x), _dense(weight), None if bias is None else bias.contiguous(), *then)


def _dense(x: Tensor) -> Tensor:
    """``x`` itself where its rows or its columns lie one behind the other, else a copy of which that is true."""
    return x if x.is_contiguous() or (x.ndim == 2 and x.t().is_contiguous()) else x.contiguous()


def _better_turned(x: Tensor, weight: Tensor) -> bool:
    """Whether to make the transposed product and turn that, which pays for high gradients of weights of many rows.

    Asked within the operator, since outside every compiled graph would have a guard on the number of rows.
    """
    columns = x.ndim == 2 and x.t().is_contiguous() and weight.t().is_contiguous()
    return MKL_IS_SLOW and columns and x.shape[1] >= weight.shape[0] < x.shape[0]


def _shape(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


# An operator of its own: what traces a model must not look inside, and does not know how to differentiate oneDNN's.
_LIBRARY = torch.library.Library("pixart", "FRAGMENT")
_LIBRARY.define("linear(Tensor x, Tensor weight, Tensor? bias, bool gelu=False) -> Tensor")
_LIBRARY.impl("linear", _product, "CPU")
torch.library.register_fake(OPERATOR, _shape, lib=_LIBRARY)


class Product(torch.autograd.Function):
    """``F.linear`` in float32 on the CPU, with gradients of any order."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``x`` (..., K), ``weight`` (N, K), ``bias`` (N,) or None -> (..., N), contiguous."""
        return torch.ops.pixart.linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004 (torch names it)
        """Keep what those gradients are made of that are wanted: of a frozen layer not its inputs."""
        x, weight, _ = inputs
        of_x, of_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if of_weight else None, weight if of_x else None)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of ``x``, ``weight`` and ``bias``, as far as they are wanted; ``gradient`` (..., N)."""
        x, weight = ctx.saved_tensors
        rows = gradient.reshape(-1, gradient.shape[-1])  # (M, N)
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            product(gradient, weight.t(), None) if of_x else None,
            _of_weight(rows, x.reshape(-1, x.shape[-1])) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


def _of_weight(rows: Tensor, inputs: Tensor) -> Tensor:
    """(M, N), (M, K) -> (N, K): where MKL is not slow, oneDNN is faster at it if the result is wider than high."""
    by_onednn = MKL_IS_SLOW or inputs.shape[1] > rows.shape[1]
    return product(rows.t(), inputs.t(), None) if by_onednn else rows.t() @ inputs


product: Callable[[Tensor, Tensor, Tensor | None], Tensor] = Product.apply


@register_flop_formula(torch.ops.pixart.linear)
def _flops(x: tuple[int, ...], weight: tuple[int, ...], *_: Any, out_shape: Any = None, **__: Any) -> int:  # noqa: ARG001
    """Of a product, which its gradients are counted as too: (M, K) by (K, N)."""
    return 2 * math.prod(x) * weight[0]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``, by oneDNN where that is faster: ``x`` (..., K), ``weight`` (N, K), ``bias`` (N,) -> (..., N).

    Elsewhere, in another precision, under autocast and of narrow layers it is ``F.linear`` itself. The two differ in
    float32's last bits.
    """
    return product(x, weight, bias) if _for_onednn(x, weight, weight.shape) else F.linear(x, weight, bias)


def weight_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """Of ``linear``'s weight as ``linear`` computes it: ``gradient`` (M, N), ``x`` (M, K) -> (N, K)."""
    fast = _for_onednn(gradient, x, (gradient.shape[1], x.shape[1]))
    return _of_weight(gradient, x) if fast else gradient.t() @ x


def _for_onednn(one: Tensor, other: Tensor, sides: Sequence[int]) -> bool:
    return (
        ONEDNN is not None
        and one.device.type == other.device.type == "cpu"
        and one.dtype is other.dtype is torch.float32
        and (min(sides) >= WIDE or (min(sides) >= NARROWEST and math.prod(one.shape[:-1]) >= MANY))
        and not torch.is_autocast_enabled("cpu")
        and forward_ad._current_level < 0  # a tangent that goes along with ``one`` would be lost
    )


class Linear(nn.Linear):
    """torch's layer, computed by ``linear``."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N)."""
        return linear(x, self.weight, self.bias)


class _Mlp(Mlp):  # type: ignore[misc]
    """timm's; where nothing is differentiated oneDNN takes the GELU of what it multiplies."""

    def forward(self, x: Tensor) -> Tensor:
        fc1, act = self.fc1, self.act
        # An adapter around the layer, or a hook on it, is to see what it gives, and another activation is to act.
        bare = type(fc1) is Linear and type(act) is nn.GELU and act.approximate == "tanh" and not _hooked(fc1, act)
        if bare and not torch.is_grad_enabled() and _for_onednn(x, fc1.weight, fc1.weight.shape):
            return self.fc2(torch.ops.pixart.linear(x, fc1.weight, fc1.bias, gelu=True))
        return super().forward(x)


def _hooked(*modules: nn.Module) -> bool:
    """Whether any has a hook, or a ``forward`` of its own, by which accelerate brings weights that lie elsewhere."""
    return _has_any_global_hook() or any(
        one._forward_hooks or one._forward_pre_hooks or "forward" in vars(one) for one in modules
    )


def make_mlp(dim: int, hidden: int, out: int) -> Mlp:
    """timm's, of two such layers ``fc1`` and ``fc2`` with GELU by tanh between them: (..., dim) -> (..., out)."""
    made = _Mlp(dim, hidden, out, act_layer=lambda: nn.GELU("tanh"))
    made.fc1, made.fc2 = Linear(dim, hidden), Linear(hidden, out)
    return made
