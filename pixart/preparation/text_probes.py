"""What a text encoder's states know of a scene, measured on combinations that training never showed.

Two instruments. *Infilling*: how many masked words the whole T5 restores, where another caption of the document tells.
*Probes*: a linear readout from frozen states, fitted on combinations that were seen and scored on held-out ones. For
every probe a bag of words is the floor: on held-out arrangements it is led below chance, because the words of such a
caption were seen in the other arrangements only.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pixart.data.embedded.captions import Prompt, Wanted, prompts, seen_prompts
from pixart.data.embedded.combinations import COLOURS, SHAPES, TASKS, Task
from pixart.encoders.text import pad
from pixart.preparation.pretrain_text import predict
from pixart.preparation.span_corruption import END, Corruption, Masked, Vocabulary, documents_about, mask

Encode = Callable[[Tensor, Tensor], Tensor]  # token ids (N, L), mask (N, L) -> states (N, L, D)
RIDGE = 1.0  # penalty on the weights of a readout, whose inputs have unit variance
HUES = tuple(COLOURS)
ROLES = ("left", "right", "above", "below")


class Reading(NamedTuple):
    """One question to the states of one caption: which token to look at (None: the mean of all), and the answer."""

    word: str | None
    answer: int


def _first(prompt: Prompt) -> Wanted:
    """The object whose shape stands first in SHAPES, wherever the caption names it."""
    return min(prompt.target.objects, key=lambda wanted: SHAPES.index(wanted.shape))


def _hue(wanted: Wanted) -> int:
    return HUES.index(str(wanted.colour))


def _role(prompt: Prompt, wanted: Wanted) -> int:
    return 2 * (prompt.target.axis == "above") + prompt.target.objects.index(wanted)


PROBES: dict[str, tuple[Task, Callable[[Prompt], list[Reading]]]] = {
    "colour, at the shape's word": (
        "binding",
        lambda prompt: [Reading(o.shape, _hue(o)) for o in prompt.target.objects],
    ),
    "shape, at the colour's word": (
        "binding",
        lambda prompt: [Reading(o.colour, SHAPES.index(o.shape)) for o in prompt.target.objects],
    ),
    "role, at the shape's word": (
        "position",
        lambda prompt: [Reading(o.shape, _role(prompt, o)) for o in prompt.target.objects],
    ),
    "colour of the first shape, in the mean": ("binding", lambda prompt: [Reading(None, _hue(_first(prompt)))]),
    "role of the first shape, in the mean": ("position", lambda prompt: [Reading(None, _role(prompt, _first(prompt)))]),
}


def _readings(
    encode: Encode, vocabulary: Vocabulary, asked: Sequence[Prompt], read: Callable[[Prompt], list[Reading]]
) -> tuple[Tensor, Tensor]:
    """States (R, D) float64 that the questions look at, and the answers (R,)."""
    token_ids, real = pad([[*vocabulary.encode(prompt.text), END] for prompt in asked])
    with torch.no_grad():
        states = encode(token_ids, real).double()  # (N, L, D)
    means = (states * real[..., None]).sum(dim=1) / real.sum(dim=1, keepdim=True)  # (N, D)
    rows, answers = [], []
    for row, prompt in enumerate(asked):
        for word, answer in read(prompt):
            rows.append(means[row] if word is None else states[row, prompt.text.split().index(word)])
            answers.append(answer)
    return torch.stack(rows), torch.tensor(answers)


def _readout_accuracy(fitted: tuple[Tensor, Tensor], scored: tuple[Tensor, Tensor]) -> float:
    """Fits a ridge classifier on the first (states, answers) and gives its accuracy on the second."""
    mean, deviation = fitted[0].mean(dim=0), fitted[0].std(dim=0) + 1e-6

    def inputs(states: Tensor) -> Tensor:
        return F.pad((states - mean) / deviation, (0, 1), value=1.0)  # (R, D + 1), a bias last

    x, y = inputs(fitted[0]), F.one_hot(fitted[1]).double()
    weights = torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)  # (D + 1, classes)
    return (inputs(scored[0]) @ weights).argmax(dim=1).eq(scored[1]).double().mean().item()


def probe(
    encode: Encode, vocabulary: Vocabulary, *, fit: Mapping[Task, int], score: Mapping[Task, int], seed: int
) -> dict[str, float]:
    """Accuracy of each of ``PROBES``: fitted on so many prompts of seen combinations, on so many held-out ones."""
    return {
        name: _readout_accuracy(
            _readings(encode, vocabulary, seen_prompts(task, fit[task], seed), read),
            _readings(encode, vocabulary, prompts(task, score[task], seed), read),
        )
        for name, (task, read) in PROBES.items()
    }


class Infilling(NamedTuple):
    """Masked words of documents about held-out combinations, and how many of each kind are restored."""

    masked: Masked
    kinds: dict[str, Tensor]  # (N, M) bool, which target tokens are of the kind


def make_infilling(vocabulary: Vocabulary, mixture: Sequence[Corruption], *, per_task: int, seed: int) -> Infilling:
    """Documents of two captions each, about held-out combinations of every task, masked as in training."""
    targets = [prompt.target for task in TASKS for prompt in prompts(task, per_task, seed)]
    rng = np.random.Generator(np.random.Philox(key=np.array((seed, 0), np.uint64)))
    masked = mask(list(documents_about(targets, seed=seed)), vocabulary, mixture, rng)
    words = {"all words": sorted(vocabulary.ids), "colours": HUES, "shapes": SHAPES, "left, right, above, below": ROLES}
    kinds = {
        kind: torch.isin(masked.target, torch.tensor([vocabulary.ids[w] for w in ws])) for kind, ws in words.items()
    }
    return Infilling(masked, kinds)


def infilling_accuracy(model: Any, infilling: Infilling) -> dict[str, float]:
    """Share of masked words that a T5 restores, given the target words before them, by kind of word."""
    with torch.no_grad():
        right = predict(model, infilling.masked).argmax(dim=-1) == infilling.masked.target  # (N, M)
    return {kind: right[chosen].double().mean().item() for kind, chosen in infilling.kinds.items()}


def majority_accuracy(infilling: Infilling) -> dict[str, float]:
    """Share of masked words that are the commonest masked word of their kind."""
    tokens = {kind: infilling.masked.target[chosen].tolist() for kind, chosen in infilling.kinds.items()}
    return {kind: Counter(words).most_common(1)[0][1] / len(words) for kind, words in tokens.items()}
