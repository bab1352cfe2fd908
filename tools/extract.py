"""Store latents and text states once: ``python tools/extract.py +stage=2 data.root=… out=…``."""

import sys
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pixart.config import Config, Positive, Section, parse
from pixart.door import door


class ExtractConfig(Section):
    """The keys that ``configs/extract.yaml`` adds to those of a run."""

    out: str
    states: Literal["int8", "bfloat16"]
    batch: Positive


def run(values: dict[str, Any]) -> None:
    """Extract, and show the account."""
    if values.get("out") in (None, "???"):
        raise ValueError("out is not set: give a folder for the features, out=…")
    asked = parse({key: values.pop(key) for key in ExtractConfig.model_fields}, ExtractConfig)
    config = parse(values, Config)
    from pixart.build.extracting import run_extraction

    out = Path(asked.out)
    found = run_extraction(config, out, states=asked.states, batch=asked.batch, told=show)
    for why, count in found.skipped.items():
        print(f"left out: {count} x {why} (as {found.first_skipped[why]})")
    print(f"{found.samples} samples in {found.shards} shards: {out}")
    if found.missing:
        print(f"{found.missing} shards are left to other processes; the last of them writes the index")
    else:
        print(f"train with data.root={out} and the same stage, resolution and encoders")


def show(done: int, of: int) -> None:
    """How far this process is."""
    print(f"shard {done} of {of}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    door("extract", run)()
