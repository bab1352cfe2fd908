"""``PixArtAlphaPipeline`` beside our pipeline, prompts to pictures, with random encoders."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from pixart.benchmark.device import settle
from pixart.benchmark.examples import CHANNELS, Text
from pixart.benchmark.record import Figure
from pixart.benchmark.speed import ratios
from pixart.benchmark.suites import Run
from pixart.benchmark.timing import Contender, Spread, interleaved
from pixart.config import Positive, Section
from pixart.diffusion.gaussian import Gaussian
from pixart.diffusion.sampler import make_scheduler
from pixart.encoders.autoencoder import load_autoencoder
from pixart.encoders.text import MINIATURES, load_text_encoder
from pixart.models.dit import PixArt
from pixart.sampling.pipeline import Pipeline

SUITE = "sample"
_PROMPT = "a small red circle above a large blue square on a white background"


Channels = Annotated[int, Field(gt=0, multiple_of=8)]  # in the groups of a norm


class Encoders(Section):
    """Shapes of the encoders made up for a whole pipeline."""

    autoencoder: tuple[Channels, ...]  # of its blocks; all but the last halve the picture
    text_layers: Positive
    text_hidden: Positive


class Asked(NamedTuple):
    """What every pipeline is asked for."""

    objective: Gaussian
    side: int  # pixels
    pictures: int
    steps: int
    guidance_scale: float
    scheduler: Literal["dpm_solver", "ddim"]
    max_tokens: int


def compared(
    models: Mapping[str, Any], asked: Asked, folder: Path, run: Run, *, name: str, targets: Mapping[str, str]
) -> Iterator[Figure]:
    """Pictures a second of every model in its own pipeline with the encoders in ``folder``, and ours over theirs."""
    contenders = {
        contender: (_ours if isinstance(model, PixArt) else _theirs)(model, asked, folder)
        for contender, model in models.items()
    }
    times = interleaved(contenders, rounds=run.rounds, seed=run.seed)
    for contender in contenders:
        yield Figure.spread(SUITE, f"{name}: {contender} pictures_per_second", times.rate(contender), "pictures/s")
    for key, ratio in ratios(times):
        target = targets.get(f"pipeline_{key}")
        yield Figure.spread(SUITE, f"{name}: {key}", Spread.of(ratio), "of its time", target)


def write_encoders(folder: Path, encoders: Encoders, text: Text) -> None:
    """A random T5 with the packaged tokenizer, and a random autoencoder, as a pipeline's folder has them."""
    from diffusers import AutoencoderKL
    from transformers import AutoTokenizer, T5Config, T5EncoderModel

    tokenizer = AutoTokenizer.from_pretrained(MINIATURES["shapes-t5"])
    tokenizer.save_pretrained(folder / "tokenizer")
    sizes = {"d_model": text.dim, "d_ff": encoders.text_hidden, "num_layers": encoders.text_layers}
    T5EncoderModel(T5Config(vocab_size=len(tokenizer), d_kv=16, num_heads=4, **sizes)).save_pretrained(
        folder / "text_encoder"
    )
    count = len(encoders.autoencoder)
    kinds = {"down_block_types": ["DownEncoderBlock2D"] * count, "up_block_types": ["UpDecoderBlock2D"] * count}
    channels = list(encoders.autoencoder)
    AutoencoderKL(**kinds, block_out_channels=channels, norm_num_groups=8, latent_channels=CHANNELS).save_pretrained(
        folder / "vae"
    )


def _theirs(transformer: Any, asked: Asked, folder: Path) -> Contender:
    from diffusers import AutoencoderKL, PixArtAlphaPipeline
    from transformers import AutoTokenizer, T5EncoderModel

    dtype, device = transformer.dtype, transformer.device
    pipeline = PixArtAlphaPipeline(
        tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer"),
        text_encoder=T5EncoderModel.from_pretrained(folder / "text_encoder", dtype=dtype),
        vae=AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=dtype),
        transformer=transformer,
        scheduler=make_scheduler(asked.objective, asked.scheduler),
    ).to(device)
    pipeline.set_progress_bar_config(disable=True)

    def draw() -> int:
        pipeline(
            [_PROMPT] * asked.pictures,
            height=asked.side,
            width=asked.side,
            guidance_scale=asked.guidance_scale,
            num_inference_steps=asked.steps,
            max_sequence_length=asked.max_tokens,
            use_resolution_binning=False,
            clean_caption=False,
            output_type="np",
        )
        settle(device)
        return asked.pictures

    return draw


def _ours(model: PixArt, asked: Asked, folder: Path) -> Contender:
    parameter = next(model.parameters())
    dtype, device = parameter.dtype, parameter.device
    encoder = load_text_encoder(str(folder), max_tokens=asked.max_tokens, cleaning="none", dtype=dtype).to(device)
    autoencoder = load_autoencoder(str(folder), dtype=dtype).to(device)

    def draw() -> int:
        # Anew each time: it remembers the null caption, which theirs encodes every time. fp32 is the weights as they
        # are, and they are in the precision wanted already.
        pipeline = Pipeline(model, asked.objective, encoder, autoencoder, device=device, precision="fp32")
        pipeline(
            prompts=[_PROMPT] * asked.pictures,
            seeds=list(range(asked.pictures)),
            sizes=[(asked.side, asked.side)] * asked.pictures,
            guidance_scale=asked.guidance_scale,
            num_inference_steps=asked.steps,
            guidance_channels="all",
            scheduler_name=asked.scheduler,
            batch_size=asked.pictures,
        )
        settle(device)
        return asked.pictures

    return draw
