"""Randomness as an argument: numbers that depend on (seed, k, position, use) and on nothing that was drawn before.

Two tools. ``generator`` is numpy's Philox, a counter-based generator, with the seed and the use as its key and
k and the position as its counter (Salmon et al. 2011): noise, caption choices and drops come from it. ``permuted`` is
a keyed bijection of range(n), a Feistel network over the two digits of a mixed-radix number, with cycle walking
(Black and Rogaway 2002): it reads any place of a permutation of ten million rows without ever writing it down.
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

RANDOMNESS_VERSION = "philox4x64-10/feistel8-splitmix64/1"

Use = Literal["noise", "posterior", "caption", "drop", "strata", "flip"]
_CODES = {use: code for code, use in enumerate(get_args(Use), start=1)}

_WORD = (1 << 64) - 1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ONE = np.uint64(1)
_ROUNDS = 8


def generator(seed: int, k: int, position: int, use: Use) -> np.random.Generator:
    """The generator of one ``use`` of one ``position`` of global batch ``k``.

    ``k`` may be negative (a validation pass, see ``pixart.data.planning.validation``). Each generator owns 2**128
    blocks of numbers, so that two of them never overlap. Raises ``ValueError`` for a seed outside [0, 2**64).
    """
    if not 0 <= seed <= _WORD:
        raise ValueError(f"seed={seed} is not in [0, 2**64)")
    # The two low words of the counter count the blocks drawn.
    counter = np.array([0, 0, position & _WORD, k & _WORD], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=np.array([seed, _CODES[use]], dtype=np.uint64), counter=counter))


def uniforms(seed: int, k: int, global_batch: int, stratified: bool) -> NDArray[np.float64]:
    """The numbers u in [0, 1) of all positions of global batch ``k``, which objectives make into timesteps.

    ``stratified`` puts exactly one u into each of the ``global_batch`` equal parts of [0, 1), in an order that is new
    for each k: then no process and no position sees only its slice of time. Returns (global_batch,) float64.
    """
    rng = generator(seed, k, 0, "strata")
    u = rng.random(global_batch)
    if stratified:
        u = (rng.permutation(global_batch) + u) / global_batch
    return np.minimum(u, np.nextafter(1.0, 0.0))  # the division may round up to 1


def mixed(*words: int | NDArray[np.integer]) -> NDArray[np.uint64]:
    """A 64-bit hash of ``words`` (whole numbers or arrays of them, broadcast together), at least one-dimensional."""
    state = np.zeros(1, dtype=np.uint64)
    for word in words:
        number = np.uint64(word & _WORD) if isinstance(word, int) else np.atleast_1d(word).astype(np.uint64)
        state = _finalised(state ^ (np.atleast_1d(number) + _GOLDEN))
    return state


def permuted(
    index: NDArray[np.integer], count: int | NDArray[np.integer], key: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Where the permutation of range(``count``) named by ``key`` sends ``index``.

    ``index`` (n,) holds numbers in [0, count); ``key`` comes from ``mixed``. ``count`` and ``key`` are one for all or
    (n,), one for each. Returns (n,) int64.
    """
    counts = np.atleast_1d(count).astype(np.uint64)
    columns = _root(counts)
    rows = (counts + columns - _ONE) // columns  # rows * columns is at least count and less than count + columns
    out = index.astype(np.uint64)
    walking = np.arange(len(out))
    while len(walking):
        mine = [column if len(column) == 1 else column[walking] for column in (rows, columns, key, counts)]
        out[walking] = _feistel(out[walking], *mine[:3])
        walking = walking[out[walking] >= mine[3]]  # outside: walk the cycle on, it must come back inside
    return out.astype(np.int64)


def another(index: int, count: int, attempt: int, key: NDArray[np.uint64]) -> int:
    """A number of range(``count``) that is not ``index``: attempts 1 .. count - 1 find all of them, each once.

    Later attempts begin anew. Where there is no other, it is ``index``.
    """
    if count == 1:
        return index
    step = permuted(np.array([(attempt - 1) % (count - 1)]), count - 1, key)
    return (index + 1 + int(step[0])) % count


def _root(counts: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The whole numbers whose squares first reach ``counts``, which are at least 1 and below 2**52."""
    root = np.ceil(np.sqrt(counts.astype(np.float64))).astype(np.uint64)  # exact, or one too many
    return np.maximum(_ONE, root - ((root - _ONE) ** 2 >= counts).astype(np.uint64))


def _feistel(
    number: NDArray[np.uint64], rows: NDArray[np.uint64], columns: NDArray[np.uint64], key: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """A keyed bijection of range(rows * columns)."""
    row, column = number // columns, number % columns
    for turn in range(_ROUNDS):
        turned = key + np.full(1, turn + 1, dtype=np.uint64) * _GOLDEN
        if turn % 2 == 0:
            row += _finalised(turned ^ column) % rows
            row = np.where(row >= rows, row - rows, row)
        else:
            column += _finalised(turned ^ row) % columns
            column = np.where(column >= columns, column - columns, column)
    return row * columns + column


def _finalised(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of splitmix64 (Steele et al. 2014): every bit in moves half of the bits out."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
