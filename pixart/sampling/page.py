"""What was drawn, written down: a line of JSON per picture, and one page that shows them all by itself."""

import base64
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

LOSSLESS_SIDE = 256  # pixels: larger pictures go into the page as JPEG, or a page of hundreds could not be opened


class Result(NamedTuple):
    """One picture and all that it takes to draw it again."""

    file: str  # name of its PNG, beside the page
    prompt: str
    seed: int
    height: int  # pixels
    width: int
    guidance_scale: float
    steps: int  # calls of the sampler
    scheduler: str
    weights: str
    options: dict[str, Any]  # what else was asked for


def write_results(path: str | Path, results: Sequence[Result]) -> None:
    """``results`` as JSON lines, one object each, UTF-8."""
    lines = [json.dumps(result._asdict(), ensure_ascii=False) + "\n" for result in results]
    Path(path).write_text("".join(lines), encoding="utf-8")


def pictures_named(path: Path) -> list[Path]:
    """The pictures beside ``path`` that its lines, from ``write_results``, name; none of what others wrote."""
    if not path.is_file():
        return []
    try:
        names = [json.loads(line)["file"] for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (ValueError, TypeError, LookupError):
        return []
    return [path.parent / name for name in names if isinstance(name, str) and re.fullmatch(r"\d{5,}\.png", name)]


def write_page(path: str | Path, images: Sequence[NDArray[np.uint8]], results: Sequence[Result], *, title: str) -> None:
    """One HTML file that needs no other: pictures, style and script are inside, so it opens from a disk or a mail.

    Args:
        path: of the file to write.
        images: uint8 (height, width, 3); larger ones than 256 pixels are shown as JPEG, the PNG beside is linked.
        results: one per image; every text of theirs is escaped.
        title: heading of the page.

    Raises:
        ValueError: another number of results than of images.
    """
    if len(images) != len(results):
        raise ValueError(f"a page needs one result per image: {len(results)} results, {len(images)} images")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    pictures = [
        {"source": _data_uri(image), "result": result, "settings": _settings(result)}
        for image, result in zip(images, results, strict=True)
    ]
    html = environment.get_template("page.html").render(title=title, pictures=pictures)
    Path(path).write_text(html, encoding="utf-8")


def _settings(result: Result) -> dict[str, str]:
    return {
        "seed": str(result.seed),
        "size": f"{result.height} x {result.width}",
        "guidance": f"{result.guidance_scale:g}",
        "sampler": f"{result.scheduler}, {result.steps} steps",
        "weights": result.weights,
        **{key: str(value) for key, value in result.options.items()},
    }


def _data_uri(image: NDArray[np.uint8]) -> str:
    kind = "png" if max(image.shape[:2]) <= LOSSLESS_SIDE else "jpeg"
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, quality=90)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
