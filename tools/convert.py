"""Weights from one format to another: ``python tools/convert.py source=model.pth to=diffusers out=folder``."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pydantic import Field

from pixart.config import Positive, Section, parse
from pixart.door import door


class ConvertConfig(Section):
    """The keys of ``configs/convert.yaml``."""

    source: str
    to: Literal["snapshot", "pixart", "diffusers", "diffusers-pipeline"]
    out: str
    num_heads: Positive | None
    input_size: Positive | None
    interpolation_scale: Annotated[float, Field(gt=0)] | None
    text_encoder: str | None
    autoencoder: str | None
    encoders: Literal["copy", "link"]
    null_caption: str | None
    allow_nonfinite: bool


def run(values: dict[str, Any]) -> None:
    """Read, write, and show what became of each tensor on either way."""
    for key, what in {"source": "the weights", "to": "a format", "out": "where to write"}.items():
        if values.get(key) in (None, "", "???"):
            raise ValueError(f"{key} is not set: give {what}, {key}=…")
    asked = parse(values, ConvertConfig)
    from pixart.formats import read, write
    from pixart.formats.reading import with_null_caption
    from pixart.formats.table import format_table

    weights = read(
        asked.source,
        num_heads=asked.num_heads,
        input_size=asked.input_size,
        interpolation_scale=asked.interpolation_scale,
        allow_nonfinite=asked.allow_nonfinite,
    )
    if asked.null_caption is not None:
        weights = with_null_caption(weights, asked.null_caption)
    rows = write(
        weights,
        asked.out,
        to=asked.to,
        text_encoder=asked.text_encoder,
        autoencoder=asked.autoencoder,
        encoders=asked.encoders,
    )
    # Only now: a table before a refusal would look like a conversion.
    licence = f", licence {weights.licence}" if weights.licence else ""
    print(f"{weights.source}{licence}\n{format_table(weights.rows)}\n\n{asked.out}: {asked.to}\n{format_table(rows)}")


if __name__ == "__main__":
    door("convert", run)()
