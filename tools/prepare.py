"""Make training shards of your images: ``python tools/prepare.py source=photos out=data/photos``."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pydantic import Field
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from pixart.config import Positive, Section, parse
from pixart.door import door
from pixart.foreign_words import plain
from pixart.preparation.account import Prepared


class PrepareConfig(Section):
    """The keys of ``configs/prepare.yaml``."""

    source: str
    out: str | None
    kind: Literal["auto", "captions", "jsonl", "classes", "tars"]
    shard_size: Positive
    encode: Literal["keep", "jpg", "png", "webp"]
    quality: Annotated[int, Field(ge=1, le=100)]
    workers: Positive
    checksums: bool
    timeout: Annotated[float, Field(gt=0)]
    retries: Annotated[int, Field(ge=0)]
    storage_options: dict[str, Any] | None


def run(values: dict[str, Any]) -> None:
    """Prepare, and show the account."""
    if values.get("source") in (None, "", "???"):
        raise ValueError("source is not set: give a folder of images, a .jsonl or a folder of tars")
    config = parse(values, PrepareConfig)
    if config.kind == "tars":
        show(_indexed(config), config.out or config.source)
    elif config.out is None:
        raise ValueError("out is not set: give a new folder for the shards")
    else:
        from pixart.preparation.prepare import prepare

        prepared = prepare(
            Path(config.source),
            Path(config.out),
            kind=config.kind,
            shard_size=config.shard_size,
            encode=config.encode,
            quality=config.quality,
        )
        show(prepared, config.out)


def _indexed(config: PrepareConfig) -> Prepared:
    from pixart.preparation.index_tars import Remote, index_tars

    out = None if config.out is None else Path(config.out)
    remote = Remote(config.timeout, config.retries, config.storage_options or {})
    with Progress(transient=True) as progress:
        task = progress.add_task("tars", total=None)
        return index_tars(
            config.source,
            out,
            workers=config.workers,
            checksums=config.checksums,
            remote=remote,
            told=lambda done, of: progress.update(task, completed=done, total=of),
        )


def show(prepared: Prepared, out: str) -> None:
    """Print what became of every file or line."""
    table = Table("", "count", "", "the first of them")
    for what, count in prepared.used.items():
        table.add_row("used", str(count), what, "")
    for how, count in prepared.converted.items():
        table.add_row("converted", str(count), escape(how), escape(plain(prepared.first_converted[how])))
    for why, count in prepared.skipped.items():
        table.add_row("skipped", str(count), escape(why), escape(plain(prepared.first_skipped[why])))
    console = Console()
    console.print(table)
    console.print(f"{prepared.samples} samples in {prepared.shards} shards: {out}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    door("prepare", run)()
