"""A process from which ranks are forked: it has imported all that they will, and started no thread."""

import gc
import importlib
import json
import sys
from contextlib import suppress
from pathlib import Path

import torch

from pixart.build import parts
from pixart.config import Config
from pixart.torture.ranks import Ranks, train

_LIMIT = 300.0  # seconds for a first run with all its imports


def warm(config: Config, folder: Path) -> None:
    """Import all that a run imports, as a first one in a child of its own tells, and build its parts once.

    Raises:
        ValueError: the run does not go through though nobody touches it.
    """
    torch.set_num_threads(1)
    names = folder / "modules.json"

    def told(config: Config) -> None:
        train(config)
        names.write_text(json.dumps(list(sys.modules)))

    first = config.model_copy(update={"run_dir": str(folder / "run")})
    with Ranks(first, 1, folder / "said", task=told) as ranks:
        ended = ranks.end(_LIMIT)
    if ended.codes != [0]:
        raise ValueError(f"the run does not go through though nobody touches it: {ended.sentence or ended.said[0]}")
    for name in json.loads(names.read_text()):
        with suppress(ImportError):  # some are made by others, under names that are no files
            importlib.import_module(name)
    parts.model(config)
    parts.text_encoder(config, defer=False)
    gc.collect()
    gc.freeze()  # or each rank would copy and search all of this
