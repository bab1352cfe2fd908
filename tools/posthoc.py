"""An average that a run did not track: ``python tools/posthoc.py run=outputs/… sigma_rel=0.13``."""

import sys
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pydantic import Field

from pixart.config import Positive, Section, parse
from pixart.door import door
from pixart.formats.profiles import choose


class PosthocConfig(Section):
    """The keys of ``configs/posthoc.yaml``."""

    run: str
    sigma_rel: float | None
    gamma: Annotated[float, Field(gt=0)] | None
    decay: Annotated[float, Field(gt=0, lt=1)] | None
    step: Positive | None
    out: str | None


def run(values: dict[str, Any]) -> None:
    """Reconstruct, write, and say how near the stored averages come to the wanted one."""
    if values.get("run") in (None, "", "???"):
        raise ValueError("run is not set: give a run directory, run=…")
    asked = parse(values, PosthocConfig)
    wanted = choose(sigma_rel=asked.sigma_rel, gamma=asked.gamma, decay=asked.decay)
    from pixart.formats.posthoc import reconstruct

    out = None if asked.out is None else Path(asked.out).expanduser()
    made = reconstruct(Path(asked.run).expanduser(), wanted, step=asked.step, out=out, told=show)
    print(f"{wanted.name} at step {made.step}, of {made.snapshots} power snapshots: {made.path}")
    print(f"relative error of the profile: {made.error:.1e} (the weights' is smaller: see docs/ema.md)")


def show(done: int, of: int) -> None:
    """How much has been read."""
    print(f"\rread {done} of {of}", end="\n" if done == of else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    door("posthoc", run)()
