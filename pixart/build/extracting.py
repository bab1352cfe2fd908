"""An extraction of features from the configuration of the run that will read them."""

import os
from pathlib import Path

import torch

from pixart.build.opening import opened
from pixart.build.parts import autoencoder, text_encoder
from pixart.config import Config
from pixart.data.buckets import buckets_for
from pixart.data.features import StatesDtype
from pixart.preparation.encode import Encoders
from pixart.preparation.extract import Extracted, Share, Told, extract


def run_extraction(config: Config, out: Path, *, states: StatesDtype, batch: int, told: Told) -> Extracted:
    """Write the features of ``config.data`` to ``out``, as ``config``'s own encoders make them.

    Under a launcher each process takes its share of the shards, on a device of its own. Raises ``ValueError`` for a
    mixture, for shards that are nowhere, and as ``pixart.preparation.extract`` does.
    """
    section = config.data
    if section.kind == "shards" and section.root is None:
        raise ValueError(
            "features are extracted from one folder of shards: set data=shards data.root=… (and no mixture)"
        )
    whole = config.model_copy(update={"data": section.model_copy(update={"validation_samples": 0})})
    source = opened(whole).source
    device = _device()
    text = text_encoder(config)
    encoders = Encoders(
        latents=autoencoder(config).to(device),
        text=None if text is None else text.to(device),
        buckets=buckets_for(config.resolution, section.buckets),
        distance=section.bucket_distance,
        states=states,
        batch=batch,
    )
    share = Share(rank=int(os.environ.get("RANK", "0")), world_size=int(os.environ.get("WORLD_SIZE", "1")))
    return extract(source, out, encoders=encoders, workers=section.workers, share=share, told=told)


def _device() -> torch.device:
    """This process' own: a launcher numbers the processes of a machine."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
