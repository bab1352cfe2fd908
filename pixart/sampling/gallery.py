"""A folder of pictures: each by itself, all as one grid, all on one page, and how each was made."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pixart.sampling.grid import make_grid
from pixart.sampling.page import Result, pictures_named, write_page, write_results

RESULTS = "results.jsonl"


def write_gallery(
    folder: str | Path, images: Sequence[NDArray[np.uint8]], results: Sequence[Result], *, columns: int, title: str
) -> None:
    """Writes ``result.file`` of each, ``grid.png``, ``results.jsonl`` and ``index.html``.

    Args:
        folder: made if need be; the gallery that lay there goes, with the pictures that its ``results.jsonl`` names.
        images: uint8 (height, width, 3).
        results: one per image.
        columns: of the grid.
        title: of the page.

    Raises:
        ValueError: no images, another number of results, or no folder at ``folder``.
    """
    folder = Path(folder)
    grid = make_grid(images, [result.prompt for result in results], columns)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out={folder} exists already and is no folder: give a folder")
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures_named(folder / RESULTS):
        picture.unlink(missing_ok=True)
    for image, result in zip(images, results, strict=True):
        Image.fromarray(image).save(folder / result.file)
    grid.save(folder / "grid.png")
    write_results(folder / RESULTS, results)
    write_page(folder / "index.html", images, results, title=title)
