"""The whole job: pre-train, save, load what was saved, and measure it against random weights and a bag of words."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pixart.data.embedded.combinations import Task
from pixart.data.embedded.shapes import captions
from pixart.encoders.text import TextEncoder, load_text_encoder
from pixart.preparation.pretrain_text import Size, Training, make_model, pretrain, save_encoder
from pixart.preparation.span_corruption import make_vocabulary
from pixart.preparation.text_probes import infilling_accuracy, majority_accuracy, make_infilling, probe


class Measures(NamedTuple):
    """How much is measured."""

    fit: Mapping[Task, int]  # prompts of seen combinations that a readout is fitted on
    score: Mapping[Task, int]  # prompts of held-out combinations that it is scored on
    infilling_per_task: int  # documents about held-out combinations
    seed: int


class Report(NamedTuple):
    """What the training bought: tables of column -> row -> share, the scale of the states, the size of the files."""

    tables: dict[str, dict[str, dict[str, float]]]
    state_mean: float
    state_std: float
    bytes: int


def _plain(encoder: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """A transformers encoder as the probes want it."""
    return lambda token_ids, real: encoder(input_ids=token_ids, attention_mask=real.long()).last_hidden_state


def state_scale(encoder: TextEncoder, *, count: int, seed: int) -> tuple[float, float]:
    """Mean and standard deviation over all channels and real tokens of the states of ``count`` captions."""
    states, mask = encoder(list(captions(count, seed)))
    return states[mask].mean().item(), states[mask].std().item()


def pretrain_and_report(
    out: Path,
    *,
    size: Size,
    training: Training,
    measures: Measures,
    num_sentinels: int,
    threads: int,
    progress: Callable[[int, float], None],
) -> Report:
    """Trains a miniature, writes it to ``out`` (refused if there are weights already), and measures what it loads.

    The same arguments write the same bytes on the same machine.
    """
    if (out / "model.safetensors").exists():
        raise ValueError(f"out: {out} holds weights already; give a new folder, or delete it first")
    torch.set_num_threads(threads)
    vocabulary = make_vocabulary(num_sentinels)
    model = make_model(size, vocabulary, seed=training.seed).eval()
    infilling = make_infilling(vocabulary, training.mixture, per_task=measures.infilling_per_task, seed=measures.seed)
    read = partial(probe, vocabulary=vocabulary, fit=measures.fit, score=measures.score, seed=measures.seed)
    words: dict[str, dict[str, float]] = {"majority": majority_accuracy(infilling)}
    words["random weights"] = infilling_accuracy(model, infilling)
    probes = {"bag of words": read(lambda token_ids, _: model.shared(token_ids))}
    probes["random weights"] = read(_plain(model.encoder))
    pretrain(model, vocabulary, training, progress=progress)
    words["pre-trained"] = infilling_accuracy(model, infilling)
    save_encoder(model, vocabulary, out)
    encoder = load_text_encoder(str(out), max_tokens=64, cleaning="none", dtype=torch.float32)
    probes["pre-trained"] = read(encoder.encode)
    mean, std = state_scale(encoder, count=1000, seed=measures.seed)
    tables = {"masked words restored": words, "readout from frozen states": probes}
    return Report(tables, mean, std, sum(file.stat().st_size for file in out.iterdir()))
