"""Two training steps in a fresh process, and the most memory that they took."""

import json
import sys
from typing import Any

import torch

from pixart.benchmark.alone import held_mib, peak_mib, run_alone
from pixart.benchmark.case import Case
from pixart.benchmark.device import DTYPES, precision_on
from pixart.benchmark.examples import Text, examples_of
from pixart.benchmark.peers import ours
from pixart.benchmark.step import TrainingStep, adamw
from pixart.config import GaussianObjective, Model
from pixart.diffusion.gaussian import Gaussian


def peak_of_step(
    case: Case, *, model: Model, objective: GaussianObjective, text: Text, device: torch.device, adaln: str
) -> float | None:
    """MiB of weights, gradients, AdamW's averages and activations: on a GPU all that is allocated, on the CPU what the
    process grew by since its imports. None where they do not fit.
    """
    sections = {"case": case, "model": model, "objective": objective, "text": text}
    arguments = {name: section.model_dump(mode="json") for name, section in sections.items()}
    found = run_alone(__name__, {**arguments, "device": device.type, "adaln": adaln})
    return None if found["peak"] is None else float(found["peak"])


def _measured(arguments: dict[str, Any]) -> float | None:
    device = torch.device(arguments["device"])
    case, text = Case(**arguments["case"]), Text(**arguments["text"])
    objective = Gaussian(**{name: value for name, value in arguments["objective"].items() if name != "kind"})
    before = held_mib()
    try:
        _work(case, Model(**arguments["model"]), text, objective, device, arguments["adaln"])
    except torch.OutOfMemoryError:
        return None
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else peak_mib() - before


def _work(case: Case, shape: Model, text: Text, objective: Gaussian, device: torch.device, adaln: str) -> None:
    precision = precision_on(device, case.precision)
    model = ours(shape, case, text_dim=text.dim, device=device, adaln=adaln)
    dtype = DTYPES[precision]
    examples = examples_of(case, text, dtype=dtype, device=device, seed=0)
    step = TrainingStep(
        model, model, examples, objective=objective, optimizer=adamw(model), precision=precision, repeats=2
    )  # in the second step AdamW's averages are there from the start
    step()


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"peak": _measured(json.loads(sys.argv[1]))}))
