"""``sample.py low_memory=true`` with random weights of T5-XXL's and XL/2's true sizes, and the most memory it takes."""

import json
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pixart.benchmark.alone import run_alone
from pixart.benchmark.case import Case
from pixart.benchmark.device import emptied
from pixart.benchmark.examples import CHANNELS
from pixart.benchmark.peers import ours
from pixart.benchmark.record import Figure
from pixart.benchmark.suites import Run
from pixart.config import Model
from pixart.encoders.text import MINIATURES
from pixart.formats.diffusers_folder import write_diffusers
from pixart.formats.weights import Weights
from pixart.sampling.memory import peak_memory

_XXL = {
    **{"vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64},
    **{"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}  # T5 v1.1 XXL's own configuration
_AUTOENCODER = (128, 256, 512, 512)  # channels of Stable Diffusion's
_PROMPT = "a small red circle above a large blue square on a white background"


def frugal_peak(
    model: Model, case: Case, run: Run, device: torch.device, *, steps: int, target: str
) -> Iterator[Figure]:
    """GiB from prompt to picture in ``steps``: of tensors on a GPU, of the whole process on the CPU."""
    name = f"low_memory sampling, {case.resolution} px, {steps} steps, T5-XXL and XL/2"
    run.say(f"{name}: writing random weights")
    _write(model, case, run.folder, device)
    emptied()  # the process that is measured needs the device
    run.say(f"{name}: drawing")
    asked = {"folder": str(run.folder), "steps": steps, "device": device.type}
    peak = run_alone(__name__, asked)["peak"]
    yield Figure("memory", f"{name}: peak", peak / 2**30, "GiB", target=target)


def _write(shape: Model, case: Case, folder: Path, device: torch.device) -> None:
    """Random weights, made on ``device``."""
    from diffusers import AutoencoderKL
    from transformers import AutoTokenizer, T5Config, T5EncoderModel

    model = ours(shape, case, text_dim=int(str(_XXL["d_model"])), device=device)
    (folder / "transformer").mkdir()
    made = Weights(dict(model.state_dict()), model.config, None, None, None, "made up", [])
    write_diffusers(folder / "transformer", made)
    AutoTokenizer.from_pretrained(MINIATURES["shapes-t5"]).save_pretrained(folder / "tokenizer")
    with torch.device("meta"):
        encoder = T5EncoderModel._from_config(T5Config(**_XXL), dtype=torch.bfloat16)
    _fill(encoder.to_empty(device=device))
    encoder.save_pretrained(folder / "text_encoder")
    del encoder  # the next needs room
    count = len(_AUTOENCODER)
    kinds = {"down_block_types": ["DownEncoderBlock2D"] * count, "up_block_types": ["UpDecoderBlock2D"] * count}
    sizes: dict[str, Any] = {"block_out_channels": list(_AUTOENCODER), "layers_per_block": 2}
    with device:
        AutoencoderKL(**kinds, **sizes, latent_channels=CHANNELS).save_pretrained(folder / "vae")


def _fill(model: nn.Module) -> None:
    """The same numbers again and again: to draw five billion keeps a CPU busy for minutes."""
    for parameter in model.parameters():
        few = torch.randn(1 << 20, device=parameter.device).mul_(0.02).to(parameter.dtype)
        for part in parameter.data.view(-1).split(len(few)):
            part.copy_(few[: len(part)])


def _measured(folder: str, steps: int, device: str) -> int:
    """Bytes held at most by the door itself, run in this process."""
    sources = [f"weights={folder}/transformer", f"text_encoder={folder}", f"autoencoder={folder}"]
    how = ["low_memory=true", f"num_inference_steps={steps}"]
    sys.argv = ["sample.py", *sources, f"out={folder}/out", f"prompts=['{_PROMPT}']", *how]
    runpy.run_path(str(Path(__file__).resolve().parents[2] / "sample.py"), run_name="__main__")
    return peak_memory(torch.device(device))


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps({"peak": _measured(**json.loads(sys.argv[1]))}))
