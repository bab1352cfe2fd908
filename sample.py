"""Draw pictures: ``python sample.py weights=outputs/… prompts=prompts.txt`` (``labels=[0,1]`` after stage 1)."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pixart.aside import refuse_unwritable
from pixart.config import SampleConfig, parse
from pixart.door import door

OPTIONS = {
    "guidance_channels", "guidance_every", "autoguidance", "autoguidance_scale", "null_caption", "null_mask",
    "told_aspect_ratio", "binning", "tiled", "low_memory", "precision", "compile", "text_encoder", "autoencoder",
}  # fmt: skip


SHOWN = 8  # words that a text encoder does not know


def read_prompts(prompts: str | tuple[str, ...]) -> list[str]:
    """A list as it is; a file has one prompt a line, empty lines left out."""
    if not isinstance(prompts, str):
        return list(prompts)
    if not Path(prompts).is_file():
        found = "that is a folder, give a file in it" if Path(prompts).is_dir() else "there is no such file"
        raise ValueError(f"prompts={prompts}: {found}; for a prompt itself write prompts='[\"{prompts}\"]'")
    try:
        lines = Path(prompts).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"prompts={prompts} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    read = [line.strip() for line in lines if line.strip()]
    if not read:
        raise ValueError(f"prompts={prompts} has no prompt in it: write one a line")
    return read


def size_for(asked: SampleConfig, trained: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Height and width in pixels: as asked, or the trained size that is nearest to what was asked."""
    if asked.height is not None and asked.width is not None:
        return asked.height, asked.width
    ratio = asked.aspect_ratio or 1.0
    return min(trained, key=lambda size: abs(size[0] / size[1] - ratio))


def unread(tokenizer: Any, prompts: Sequence[str]) -> Iterator[str]:
    """A sentence for each way in which the text encoder does not see all of the prompts."""
    lost, of = tokenizer.unread(prompts), f"of {len(prompts)} prompts"
    if lost.unknown:
        words = ", ".join(lost.unknown[:SHOWN]) + (", …" if len(lost.unknown) > SHOWN else "")
        yield f"the text encoder does not know: {words} ({lost.with_unknown} {of})"
    if lost.cut:
        yield f"the text encoder reads {tokenizer.max_tokens} tokens, and not the end of {lost.cut} {of}"


def options_of(asked: SampleConfig, interval: tuple[float, float] | None) -> dict[str, Any]:
    """What else changes a picture and has no place of its own in ``results.jsonl``, where it is not as usual."""
    usual = {"guidance_channels": "all", "guidance_every": 1, "binning": "none"}
    options = {**asked.model_dump(include=OPTIONS), "guidance_interval": interval}
    if asked.autoguidance is not None:
        options["autoguidance_scale"] = asked.autoguidance_scale_for(asked.autoguidance)
    return {
        key: value for key, value in options.items()
        if value is not None and value is not False and value != usual.get(key)
    }  # fmt: skip


def sample(values: dict[str, Any]) -> None:
    """Validate, open the weights, draw, write files, grid and page."""
    asked = parse(values, SampleConfig)
    prompts = None if asked.prompts is None else read_prompts(asked.prompts)
    from pixart.bar import bar
    from pixart.build.drawing import open_weights
    from pixart.sampling.gallery import write_gallery
    from pixart.sampling.memory import peak_memory
    from pixart.sampling.page import Result

    pipeline, trained, habits = open_weights(
        asked.weights,
        precision=asked.precision,
        text_source=asked.text_encoder,
        autoencoder_source=asked.autoencoder,
        null_caption=asked.null_caption,
        null_mask=asked.null_mask,
        told_aspect_ratio=asked.told_aspect_ratio,
        compiled=asked.compile,
        tiled=asked.tiled or asked.low_memory,
        low_memory=(prompts or ()) if asked.low_memory else None,
        autoguidance=asked.autoguidance,
    )
    wanted: list[Any] = [x for x in (prompts or asked.labels or ()) for _ in range(asked.images_per_prompt)]
    seeds = [asked.seed + i for i in range(len(wanted))]
    height, width = size_for(asked, trained)
    how = habits.unless(asked)
    out = Path(asked.out)
    refuse_unwritable(out, key="out", inside=True)
    if prompts is not None and pipeline.text_encoder is not None:  # without it the pipeline refuses prompts
        for sentence in unread(pipeline.text_encoder.tokenizer, prompts):
            print(f"note: {sentence}", file=sys.stderr)
    with bar("drawing") as progress:
        images = pipeline(
            prompts=None if prompts is None else wanted,
            labels=wanted if prompts is None else None,
            seeds=seeds,
            sizes=[(height, width)] * len(wanted),
            **how._asdict(),
            guidance_channels=asked.guidance_channels,
            guidance_every=asked.guidance_every,
            autoguidance_scale=asked.autoguidance_scale_for(asked.autoguidance),
            decode_batch=asked.decode_batch,
            batch_size=asked.batch_size,
            binning=asked.binning,
            progress=progress,
        )
    options = options_of(asked, how.guidance_interval)
    results = [
        Result(
            f"{i:05d}.png", str(prompt), seed, height, width,
            how.guidance_scale, how.num_inference_steps, how.scheduler_name, asked.weights, options,
        )
        for i, (prompt, seed) in enumerate(zip(wanted, seeds, strict=True))
    ]  # fmt: skip
    write_gallery(out, images, results, columns=asked.columns, title=f"Samples of {asked.weights}")
    if asked.low_memory:
        print(f"peak memory {peak_memory(pipeline.device) / 2**30:.2f} GiB on {pipeline.device.type}")
    count = "1 picture" if len(images) == 1 else f"{len(images)} pictures"
    print(f"{count}: {out / 'grid.png'}, {out / 'index.html'}, {out / 'results.jsonl'}")


main = door("sample", sample)

if __name__ == "__main__":
    main()
