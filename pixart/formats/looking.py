"""What kind of weights lies at a path, told by what is inside and not by its name."""

from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open

from pixart.foreign_words import plain, quoted
from pixart.formats.diffusers_folder import CONFIG
from pixart.formats.shards import INDEX, WEIGHTS, read_object
from pixart.models.weights import FORMAT

Kind = Literal["ours", "official", "transformer", "pipeline"]
MODEL_INDEX, PIPELINE = "model_index.json", "PixArtAlphaPipeline"
HEAD = 512  # bytes of a file that are looked at


def look(path: Path) -> Kind:
    """The kind of reader that ``path`` is for.

    Raises ``ValueError`` for what is none of these: no file at all, a device or a pipe, a web page, a Git LFS pointer,
    a pipeline of another model, safetensors without a configuration.
    """
    try:
        if not path.exists():
            raise ValueError(f"{path}: there is no such file or run directory; give weights, or the directory of a run")
    except OSError as error:
        raise ValueError(f"{plain(str(path))} cannot be opened ({error.strerror}); give another path") from error
    if path.is_dir():
        return _look_inside(path)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file, but a device or a pipe; give a file")
    with path.open("rb") as file:
        head = file.read(HEAD)
    _refuse_stand_ins(path, head)
    if path.suffix != ".safetensors" and head[8:9] != b"{":  # after the length of a header that begins so
        return "official"
    _refuse_foreign(path)
    return "ours"


def _look_inside(folder: Path) -> Kind:
    if (folder / MODEL_INDEX).is_file():
        kind = read_object(folder / MODEL_INDEX).get("_class_name")
        if kind != PIPELINE:
            raise ValueError(
                f"{folder / MODEL_INDEX} describes a {quoted(str(kind))}, not a {PIPELINE}; if its transformer is "
                f"PixArt's, give {folder / 'transformer'} alone"
            )
        return "pipeline"
    if (folder / CONFIG).is_file():
        return "transformer"
    if (folder / WEIGHTS).is_file() or (folder / INDEX).is_file():
        raise ValueError(f"{folder} holds weights of diffusers without their {CONFIG}; get the folder again")
    return "ours"


def _refuse_stand_ins(path: Path, head: bytes) -> None:
    start = head.lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path} is the pointer of a Git LFS file, not the file; fetch it with `git lfs pull`")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError(f"{path} is a web page, not weights; download the file behind it again")


def _refuse_foreign(path: Path) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a whole safetensors file; write or copy it again") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path}: a safetensors file, but not a snapshot of ours: nothing in it tells how its model is built; of "
            f"diffusers give the folder that it lies in, with its {CONFIG}"
        )
