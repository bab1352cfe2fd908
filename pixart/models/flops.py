"""How many floating-point operations a step of the transformer asks for: its matrix products, and nothing else.

Letters: N images, T image tokens of one, S caption tokens of all N together, D width, P patch side, C channels. A
multiplication and an addition are two operations. What is computed again in the backward pass does not count, and a
caption counts with its real tokens where S is their number, with its padding where S is N * L.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

FREQUENCIES = 256  # sinusoids that describe a number


class Product(NamedTuple):
    """``times`` matrix products (m, k) x (k, n)."""

    m: int
    k: int
    n: int
    times: int = 1
    backward: int = 2  # products of the same size in the backward pass: one where the input is data and has no gradient
    linear: bool = True  # by a layer's weights; else between activations, as in attention
    captions: bool = False  # of captions alone: the same at every step of a drawing

    @property
    def forward_flops(self) -> int:
        return 2 * self.m * self.k * self.n * self.times

    @property
    def training_flops(self) -> int:
        """Forward and backward."""
        return self.forward_flops * (1 + self.backward)


def forward_flops(config: Mapping[str, Any], *, images: int, image_tokens: int, text_tokens: int) -> int:
    """Of one forward of the ``PixArt`` that ``config`` describes: N, T of each image, S."""
    return sum(product.forward_flops for product in products(config, images, image_tokens, text_tokens))


def training_flops(config: Mapping[str, Any], *, images: int, image_tokens: int, text_tokens: int) -> int:
    """Of one forward and its backward, all weights being trained."""
    return sum(product.training_flops for product in products(config, images, image_tokens, text_tokens))


def products(config: Mapping[str, Any], images: int, image_tokens: int, text_tokens: int) -> Iterator[Product]:
    """Every matrix product of a forward."""
    yield from _outside(config, images, image_tokens, text_tokens)
    for product in _block(config, images, image_tokens, text_tokens):
        yield product._replace(times=product.times * config["depth"])


def products_of_drawing(
    config: Mapping[str, Any], images: int, image_tokens: int, text_tokens: int, *, steps: int
) -> Iterator[Product]:
    """Every matrix product of ``steps`` forwards about the same captions, in which theirs are needed once."""
    for product in products(config, images, image_tokens, text_tokens):
        yield product if product.captions else product._replace(times=product.times * steps)


def _outside(config: Mapping[str, Any], images: int, image_tokens: int, text_tokens: int) -> Iterator[Product]:
    """Embeddings and the last layer."""
    dim, patch = config["dim"], config["patch_size"] ** 2
    yield Product(images * image_tokens, patch * config["in_channels"], dim, backward=1)
    yield from _number(images, dim)
    if config["size_conditioning"]:
        yield from _number(2 * images, dim // 3)
        yield from _number(images, dim - 2 * (dim // 3))
    if config["text_dim"] is not None:
        yield Product(text_tokens, config["text_dim"], dim, backward=1, captions=True)
        yield Product(text_tokens, dim, dim, captions=True)
    if config["adaln"] == "single":
        yield Product(images, dim, 6 * dim)
    else:
        yield Product(images, dim, 2 * dim)
    yield Product(images * image_tokens, dim, patch * config["out_channels"])


def _number(numbers: int, dim: int) -> Iterator[Product]:
    yield Product(numbers, FREQUENCIES, dim, backward=1)
    yield Product(numbers, dim, dim)


def _block(config: Mapping[str, Any], images: int, image_tokens: int, text_tokens: int) -> Iterator[Product]:
    dim, heads, tokens = config["dim"], config["num_heads"], images * image_tokens
    hidden = int(dim * config["mlp_ratio"])
    if config["adaln"] == "per_block":
        yield Product(images, dim, 6 * dim)
    yield Product(tokens, dim, 3 * dim)
    yield from _attention(image_tokens, image_tokens, dim // heads, images * heads)
    yield Product(tokens, dim, dim)
    if config["text_dim"] is not None:
        yield Product(tokens, dim, dim)
        yield Product(text_tokens, dim, 2 * dim, captions=True)
        # Each image's own captions: T queries to some of the S keys, which are S over all images.
        yield from _attention(image_tokens, text_tokens, dim // heads, heads)
        yield Product(tokens, dim, dim)
    yield Product(tokens, dim, hidden)
    yield Product(tokens, hidden, dim)


def _attention(queries: int, keys: int, width: int, times: int) -> Iterator[Product]:
    """Scores, and values by their weights."""
    yield Product(queries, width, keys, times, linear=False)
    yield Product(queries, keys, width, times, linear=False)
