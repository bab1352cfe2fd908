"""What lies beside the transformer in a folder that diffusers' ``PixArtAlphaPipeline`` loads."""

import json
import os
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from pixart.diffusion.gaussian import Gaussian
from pixart.diffusion.sampler import make_scheduler
from pixart.encoders import autoencoder as autoencoders
from pixart.encoders import text
from pixart.encoders.source import find_folder, require
from pixart.formats import released
from pixart.formats.diffusers_folder import CONFIG
from pixart.formats.scheduler_config import LCM, SCHEDULER
from pixart.formats.shards import read_object
from pixart.formats.table import Row
from pixart.formats.weights import Weights, objective_of, section

PIPELINE = "PixArtAlphaPipeline"
INDEX_FILES = ("*.safetensors.index.json",)  # beside what the loaders of encoders ask for


def write_beside(
    folder: Path, weights: Weights, *, text_encoder: str | None, autoencoder: str | None, link: bool
) -> list[Row]:
    """Scheduler, text encoder, tokenizer, autoencoder and model_index.json; a row for each.

    Raises ``ValueError`` naming the argument that is missing, or the part that does not fit the transformer.
    """
    config = weights.model_config
    if config["size_conditioning"] and config["input_size"] != 128:
        raise ValueError(
            f"{PIPELINE} tells sizes to the transformer at input size 128 only, not {config['input_size']}: "
            "use to=diffusers"
        )
    words = _text_folder(_source(weights, text_encoder, "text_encoder"))
    tokenizer = words.parent / "tokenizer" if (words.parent / "tokenizer").is_dir() else words
    latents = _autoencoder_folder(_source(weights, autoencoder, "autoencoder"))
    _fits("text_encoder", words, "d_model", config["text_dim"])
    _fits("autoencoder", latents, "latent_channels", config["in_channels"])
    vocabulary = [name for name in text.TOKENIZER_FILES if any(tokenizer.glob(name))]
    parts = {
        "text_encoder": (words, (*text.WEIGHT_FILES, *INDEX_FILES)),
        "tokenizer": (tokenizer, vocabulary),
        "vae": (latents, (*autoencoders.FILES, *INDEX_FILES)),
    }
    for name, (source, patterns) in parts.items():
        _place(folder / name, source, patterns, link=link)
    scheduler = _keep_scheduler(folder / "scheduler", weights) or _write_scheduler(folder / "scheduler", weights)
    _write_index(folder, scheduler)
    how = "linked from" if link else "copied from"
    rows = [Row(name, "copied", f"{how} {source}") for name, (source, _) in parts.items()]
    return [*rows, Row("scheduler", "written", scheduler)]


def _source(weights: Weights, given: str | None, part: str) -> str:
    """Where an encoder comes from: as given, from the pipeline the weights lay in, or as their run names it."""
    if given is not None:
        return given
    if weights.pipeline is not None:
        return str(weights.pipeline)
    named = section(weights, part).get("source")
    if not isinstance(named, str):
        raise ValueError(f"to=diffusers-pipeline needs {part}=: {weights.source} names none")
    return named


def _text_folder(source: str) -> Path:
    if source in text.MINIATURES:
        return text.MINIATURES[source]
    patterns = [
        f"{prefix}{name}"
        for prefix in ("", "text_encoder/", "tokenizer/")
        for name in (*text.WEIGHT_FILES, *text.TOKENIZER_FILES, *INDEX_FILES)
    ]
    folder = find_folder(source, key="text_encoder", files=patterns)
    inner = folder / "text_encoder"
    return inner if inner.is_dir() else folder


def _autoencoder_folder(source: str) -> Path:
    if source == "pixels":
        raise ValueError(f"autoencoder=pixels: {PIPELINE} needs an AutoencoderKL; give the folder of one")
    patterns = [f"{prefix}{name}" for prefix in ("", "vae/") for name in (*autoencoders.FILES, *INDEX_FILES)]
    folder = autoencoders.MINIATURES.get(source) or find_folder(source, key="autoencoder", files=patterns)
    inner = folder / "vae"
    return inner if inner.is_dir() else folder


def _fits(part: str, folder: Path, key: str, wanted: int) -> None:
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} has no {CONFIG}, which {part} needs: give {part}=<folder or hub name>")
    found = read_object(folder / CONFIG).get(key)
    if found != wanted:
        raise ValueError(f"{part}: {folder} has {key} {found} and the transformer takes {wanted}; give the one it had")


def _place(target: Path, source: Path, patterns: Sequence[str], *, link: bool) -> None:
    target.mkdir()
    needed = [name for name in patterns if name not in INDEX_FILES]
    files = require(source, needed, key=target.name, mend="pickled files are never read")
    for file in [*files, *(file for name in INDEX_FILES for file in source.glob(name))]:
        if link:
            os.symlink(file.resolve(), target / file.name)
        else:
            shutil.copyfile(file, target / file.name)


def scheduler_beside(pipeline: Path | None) -> str | None:
    """The class of the scheduler in a pipeline folder, where there is one."""
    file = None if pipeline is None else pipeline / SCHEDULER
    return str(read_object(file).get("_class_name")) if file is not None and file.is_file() else None


def is_distilled(weights: Weights) -> bool:
    """Whether they were distilled into a few steps without guidance (PixArt-LCM), as far as anything tells."""
    return section(weights, "sampling").get("scheduler") == "lcm" or scheduler_beside(weights.pipeline) == LCM


def _keep_scheduler(folder: Path, weights: Weights) -> str | None:
    """That of the pipeline that the weights lay in: distilled weights draw with no other."""
    name = scheduler_beside(weights.pipeline)
    if name is not None and weights.pipeline is not None:
        folder.mkdir()
        shutil.copyfile(weights.pipeline / SCHEDULER, folder / Path(SCHEDULER).name)
    return name


def _write_scheduler(folder: Path, weights: Weights) -> str:
    told = objective_of(weights)
    path = Gaussian(**{key: told[key] for key in released.OBJECTIVE})
    scheduler = make_scheduler(path, "lcm" if is_distilled(weights) else "dpm_solver")
    scheduler.save_pretrained(folder)
    return type(scheduler).__name__


def _write_index(folder: Path, scheduler: str) -> None:
    index = {
        "_class_name": PIPELINE,
        "_diffusers_version": version("diffusers"),
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "PixArtTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
