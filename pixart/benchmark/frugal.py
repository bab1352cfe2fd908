"""``sample.py low_memory=true`` with random weights of T5-XXL's and XL/2's true sizes, and the most memory it takes."""

import json
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pixart.benchmark.alone import run_alone
from pixart.benchmark.case import Case
from pixart.benchmark.device import emptied
from pixart.benchmark.examples import CHANNELS
from pixart.benchmark.peers import ours
from pixart.benchmark.record import Figure
from pixart.benchmark.suites import Run
from pixart.config import Model, SampleConfig
from pixart.encoders.text import MINIATURES
from pixart.formats.diffusers_folder import write_diffusers
from pixart.formats.weights import Weights

_XXL = {
    **{"vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64},
    **{"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}  # T5 v1.1 XXL's own configuration
_AUTOENCODER = (128, 256, 512, 512)  # channels of Stable Diffusion's
_PROMPT = "a small red circle above a large blue square on a white background"


def frugal_peak(model: Model, case: Case, run: Run, device: torch.device, *, target: str) -> Iterator[Figure]:
    """GiB of the GPU from prompt to picture; a line in place of it where that cannot be measured."""
    name = f"low_memory sampling, {case.resolution} px, T5-XXL and XL/2"
    if "low_memory" not in SampleConfig.model_fields:
        run.say(f"{name}: sample.py has no low_memory yet")
        return
    if device.type != "cuda":
        run.say(f"{name}: not on this device")
        return
    run.say(f"{name}: writing random weights")
    _write(model, case, run.folder, device)
    emptied()  # the process that is measured needs the device
    peak = run_alone(__name__, {"folder": str(run.folder)})["peak"]
    yield Figure("memory", f"{name}: peak", peak / 2**30, "GiB", target=target)


def _write(shape: Model, case: Case, folder: Path, device: torch.device) -> None:
    """Random weights, drawn on ``device``: five billion of them keep a CPU busy for minutes."""
    from diffusers import AutoencoderKL
    from transformers import AutoTokenizer, T5Config, T5EncoderModel

    model = ours(shape, case, text_dim=int(str(_XXL["d_model"])), device=device)
    (folder / "transformer").mkdir()
    made = Weights(dict(model.state_dict()), model.config, None, None, None, "made up", [])
    write_diffusers(folder / "transformer", made)
    AutoTokenizer.from_pretrained(MINIATURES["shapes-t5"]).save_pretrained(folder / "tokenizer")
    with device:
        T5EncoderModel._from_config(T5Config(**_XXL), dtype=torch.bfloat16).save_pretrained(folder / "text_encoder")
    count = len(_AUTOENCODER)
    kinds = {"down_block_types": ["DownEncoderBlock2D"] * count, "up_block_types": ["UpDecoderBlock2D"] * count}
    sizes: dict[str, Any] = {"block_out_channels": list(_AUTOENCODER), "layers_per_block": 2}
    with device:
        AutoencoderKL(**kinds, **sizes, latent_channels=CHANNELS).save_pretrained(folder / "vae")


def _measured(folder: str) -> int:
    """Bytes allocated at most by the door itself, run in this process."""
    sources = [f"weights={folder}/transformer", f"text_encoder={folder}", f"autoencoder={folder}"]
    sys.argv = ["sample.py", *sources, f"out={folder}/out", f"prompts=['{_PROMPT}']", "low_memory=true"]
    runpy.run_path(str(Path(__file__).resolve().parents[2] / "sample.py"), run_name="__main__")
    return torch.cuda.max_memory_allocated()


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps({"peak": _measured(**json.loads(sys.argv[1]))}))
