"""A T5 in 8 bit, read from its files tensor by tensor, so that it is nowhere whole in more."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixart.encoders.source import readable, refuse_missing

KEY = "text_encoder.source"
SHARED = ("shared.weight", "encoder.embed_tokens.weight")  # one table under two names; files hold either


class EightBitLinear(nn.Module):
    """A linear layer without bias: int8 weights, and for each row what the largest of 127 stands for.

    A weight errs by at most 1/254 of its row's largest. T5 reads the dtype of ``weight`` and leaves its input alone.
    Made where the given weight lies, with room for two of it in float32.
    """

    weight: Tensor  # (out, in) int8
    scale: Tensor  # (out,) float32

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        weight = weight.float()
        scale = weight.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        self.register_buffer("weight", (weight / scale[:, None]).round_().to(torch.int8))
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out): whole numbers to 127 are exact in half precision too, and scales come last."""
        return (F.linear(x, self.weight.to(x.dtype)) * self.scale).to(x.dtype)


def read_eight_bit(folder: Path, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The T5 encoder of ``folder`` on ``device``, its linear layers in 8 bit and the rest in ``dtype``.

    Each tensor goes to the device as the file has it and is rounded there, which a CPU is slow at. float16 becomes
    bfloat16: T5's activations overflow in it. Raises ``ValueError`` naming ``text_encoder.source`` where something is
    missing or unreadable.
    """
    from safetensors import safe_open
    from transformers import T5Config, T5EncoderModel

    dtype = torch.bfloat16 if dtype == torch.float16 else dtype
    with readable(folder, key=KEY, kind="T5 encoder"):
        config = T5Config.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            model = T5EncoderModel(config)
        wanted = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        for path in sorted(folder.glob("model*.safetensors")):
            with safe_open(path, framework="pt") as file:
                names = sorted(wanted.intersection(file.keys()))
            for name in names:
                with safe_open(
                    path, framework="pt"
                ) as file:  # anew: what was read of one stays in memory until it ends
                    _place(model, name, file.get_tensor(name).to(device), dtype)
    refuse_missing([name for name, x in model.named_parameters() if x.is_meta], folder, key=KEY)
    return model


def _place(model: nn.Module, name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    path = name.rpartition(".")[0]
    if isinstance(model.get_submodule(path), nn.Linear):
        model.set_submodule(path, EightBitLinear(tensor))
        return
    parameter = nn.Parameter(tensor.to(dtype), requires_grad=False)
    for one in SHARED if name in SHARED else (name,):
        owner, _, leaf = one.rpartition(".")
        setattr(model.get_submodule(owner), leaf, parameter)
