"""What this very machine can do at most: matrix products at a step's own sizes, and copies."""

import time
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from pixart.benchmark.device import settle
from pixart.benchmark.timing import Contender, Spread
from pixart.models.flops import Product
from pixart.models.linear import linear, weight_gradient


class Layers:
    """The products of all layers of a training step, forward and backward, one after the other and nothing else.

    Args:
        products: of a forward, see ``pixart.models.flops``; those of attention are left out.
        backward: whether to compute the gradients too.
    """

    def __init__(self, products: Iterable[Product], *, backward: bool, dtype: torch.dtype, device: torch.device):
        self.backward, self.dtype, self.device = backward, dtype, device
        self.products = [product for product in products if product.linear and product.m]
        self._made: dict[tuple[int, int, int], tuple[Tensor, Tensor, Tensor]] = {}

    @property
    def flops(self) -> int:
        """Operations of one pass."""
        return sum(product.training_flops if self.backward else product.forward_flops for product in self.products)

    def contender(self, units: int, *, repeats: int = 1) -> Contender:
        """``repeats`` passes, each counted as ``units``."""

        def work() -> int:
            for _ in range(repeats):
                self()
            settle(self.device)
            return units * repeats

        return work

    @torch.no_grad()
    def __call__(self) -> None:
        """One pass."""
        for product in self.products:
            x, weight, gradient = self._matrices(product)  # (m, k), (n, k), (m, n)
            for _ in range(product.times):
                linear(x, weight)
                if self.backward:
                    weight_gradient(gradient, x)
                if self.backward and product.backward == 2:
                    linear(gradient, weight.t())

    def _matrices(self, product: Product) -> tuple[Tensor, Tensor, Tensor]:
        m, k, n = size = (product.m, product.k, product.n)
        if size not in self._made:
            shapes = ((m, k), (n, k), (m, n))
            x, weight, gradient = (torch.randn(shape, dtype=self.dtype, device=self.device) for shape in shapes)
            self._made[size] = (x, weight, gradient)
        return self._made[size]


def copy_rate(mib: int, *, rounds: int, device: torch.device) -> Spread:
    """GB/s of copying ``mib`` MiB from one place in the device's memory to another, read and written."""
    source = torch.ones(mib * 2**20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(rounds + 1):
        settle(device)
        began = time.perf_counter()
        target.copy_(source)
        settle(device)
        seconds.append(time.perf_counter() - began)
    return Spread.of(2 * source.numel() / 1e9 / np.array(seconds[1:]))
