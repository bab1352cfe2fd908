"""Many pictures as one, the prompt written under each."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

READABLE_SIDE = 192  # pixels: smaller pictures are enlarged towards it by a whole factor
GAP = 8  # pixels around every cell
FONT_SIZE = 14
LINE_HEIGHT = 18
MAX_LINES = 6
BACKGROUND, INK = (255, 255, 255), (20, 20, 20)


class _Cell(NamedTuple):
    picture: Image.Image
    lines: list[str]

    @property
    def height(self) -> int:
        return self.picture.height + LINE_HEIGHT * len(self.lines)


def make_grid(images: Sequence[NDArray[np.uint8]], captions: Sequence[str], columns: int) -> Image.Image:
    """One RGB picture with ``columns`` cells a row, filled row by row.

    Args:
        images: uint8 (height, width, 3), sizes may differ; all are enlarged by the one whole factor that makes the
            largest of them readable, without smoothing.
        captions: one per image, wrapped to the width of a cell and cut off after six lines.
        columns: cells a row, fewer where there are fewer images.

    Raises:
        ValueError: no images, another number of captions, or no columns.
    """
    if len(images) != len(captions) or not len(images):
        raise ValueError(f"a grid needs as many captions as images and at least one: {len(captions)}, {len(images)}")
    if columns < 1:
        raise ValueError(f"columns: {columns} must be at least 1")
    factor = max(1, READABLE_SIDE // max(max(image.shape[:2]) for image in images))
    pictures = [_enlarged(image, factor) for image in images]
    width = max(picture.width for picture in pictures)
    font = ImageFont.load_default(FONT_SIZE)
    cells = [_Cell(picture, wrap(caption, width, font)) for picture, caption in zip(pictures, captions, strict=True)]
    return _drawn([cells[i : i + columns] for i in range(0, len(cells), columns)], width, font)


def wrap(text: str, width: int, font: Font) -> list[str]:
    """``text`` as at most six lines no wider than ``width`` pixels; words wider than a line are broken."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        candidate = f"{line} {word}" if line else word
        if font.getlength(candidate) <= width:
            line = candidate
            continue
        if line:
            lines.append(line)
        *full, line = _broken(word, width, font)
        lines.extend(full)
    lines.append(line)
    if len(lines) > MAX_LINES:
        lines = [*lines[: MAX_LINES - 1], _cut(lines[MAX_LINES - 1], width, font)]
    return lines


def _broken(word: str, width: int, font: Font) -> list[str]:
    """``word`` in pieces no wider than ``width``, at least one character each."""
    pieces = [""]
    for character in word:
        if pieces[-1] and font.getlength(pieces[-1] + character) > width:
            pieces.append("")
        pieces[-1] += character
    return pieces


def _cut(line: str, width: int, font: Font) -> str:
    """``line`` with as much taken from its end as an ellipsis needs."""
    while line and font.getlength(line + "...") > width:
        line = line[:-1]
    return line + "..."


def _enlarged(image: NDArray[np.uint8], factor: int) -> Image.Image:
    picture = Image.fromarray(image)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _drawn(rows: list[list[_Cell]], width: int, font: Font) -> Image.Image:
    heights = [max(cell.height for cell in row) for row in rows]
    size = (GAP + len(rows[0]) * (width + GAP), GAP + sum(height + GAP for height in heights))
    grid = Image.new("RGB", size, BACKGROUND)
    pen = ImageDraw.Draw(grid)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            left = GAP + column * (width + GAP)
            grid.paste(cell.picture, (left, top))
            for number, line in enumerate(cell.lines):
                pen.text((left, top + cell.picture.height + LINE_HEIGHT * number), line, fill=INK, font=font)
        top += height + GAP
    return grid
