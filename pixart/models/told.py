"""What a denoiser was told, ready for its blocks: anew at each step of training, once for all steps of sampling."""

from typing import NamedTuple

from torch import Tensor

from pixart.batch import Conditioning
from pixart.models.attention import KeysValues, Text


class Told(NamedTuple):
    """What was said about N images at one time each; ``PixArt`` takes it in place of a ``Conditioning`` and times."""

    vector: Tensor  # (N, D), or (1, D) where all are told the same
    modulations: tuple[Tensor, ...]  # for each block: (N, 6, D), or the vector for one that makes its own of it
    texts: tuple[Text | KeysValues | None, ...]  # the captions, one for each block


class Prepared(NamedTuple):
    """The same for all K times of a schedule: ``prepared.at(step)`` is what the model is told there."""

    vectors: Tensor  # (K, N, D)
    modulations: tuple[Tensor, ...]  # (K, N, 6, D) for each block
    texts: tuple[KeysValues | None, ...]

    def at(self, step: int) -> Told:
        """What is told at the time number ``step``, counted from 0."""
        return Told(self.vectors[step], tuple(each[step] for each in self.modulations), self.texts)


def at_each(cond: Conditioning, count: int) -> tuple[int, Conditioning]:
    """Rows N of labels and sizes, 1 where nothing of the kind is told, and these ``count`` times: (count * N) rows."""
    alike = cond._replace(tokens=None, mask=None, places=None)
    rows = max([1, *(len(x) for x in alike if x is not None)])
    return rows, Conditioning(*(None if x is None else x.repeat(count, *[1] * (x.ndim - 1)) for x in alike))
