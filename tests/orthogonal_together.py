"""Forked ranks that step Muon together: ``python orthogonal_together.py FOLDER RANKS``.

Each leaves FOLDER/<ranks>_<rank>.safetensors: its matrices after three steps, and how many it made orthogonal itself.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from pixart import muon


def stepped() -> dict[str, torch.Tensor]:
    """Five matrices of one shape and two of another, moved by gradients that are the same everywhere."""
    draws, asked, iterated = torch.Generator().manual_seed(0), [], muon.iterated
    muon.iterated = lambda matrices: asked.append(len(matrices)) or iterated(matrices)
    parameters = [torch.randn(shape, generator=draws).requires_grad_() for shape in [(24, 8)] * 5 + [(8, 8)] * 2]
    group = {"params": parameters, "matrices": True, "momentum": 0.9, "weight_decay": 0.1}
    optimizer = muon.Muon([group], lr=0.1, fused=True)
    for _ in range(3):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=draws)
        optimizer.step()
    moved = {str(number): parameter.detach() for number, parameter in enumerate(parameters)}
    return {**moved, "asked": torch.tensor(sum(asked))}


def work(folder: Path, rank: int, ranks: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting_{ranks}", rank=rank, world_size=ranks)
    save_file(stepped(), folder / f"{ranks}_{rank}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    where, together = Path(sys.argv[1]).resolve(), int(sys.argv[2])
    children = []
    for number in range(together):
        child = os.fork()
        if not child:
            code = 1
            try:
                work(where, number, together)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
