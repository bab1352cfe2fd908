"""The suite of buckets: a step at each of 40 sizes, and the graphs that they took."""

from pathlib import Path

import pytest
import torch
from measuring import measured

from pixart.benchmark import buckets
from pixart.benchmark.step import TrainingStep

TINY = [
    *("device=cpu", "model.dim=48", "model.num_heads=4", "text={dim:20,mean:3,longest:6}", "backend=eager"),
    *("cpu.batch=2", "cpu.depth=2"),
]


def test_all_40_sizes_share_1_graph_of_the_block(tmp_path: Path):
    said: list[str] = []
    figures = measured("buckets", tmp_path, *TINY, said=said)
    graphs = figures["graphs of the block after 40 sizes"]
    assert (graphs.value, graphs.target, graphs.met) == (1, "<= 2", True)
    assert figures["sizes until the last of them was made"].value == 1
    assert (
        figures["compilation, all steps together"].value >= figures["compilation, the longest wait for one step"].value
    )
    assert figures["a step, compiled"].value > 0
    assert said[-1] == "40 sizes around 256 px, 2 blocks, on cpu"


def test_the_40_steps_multiply_in_tf32_where_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before, found = torch.backends.cuda.matmul.allow_tf32, set()
    seconds = buckets._seconds

    def timed(step: TrainingStep) -> float:
        found.add(torch.backends.cuda.matmul.allow_tf32)
        return seconds(step)

    monkeypatch.setattr(buckets, "_seconds", timed)
    measured("buckets", tmp_path, *TINY, "cpu.depth=1", f"tf32={not before}")
    assert found == {not before}
    assert torch.backends.cuda.matmul.allow_tf32 == before


def test_without_a_compiler_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(buckets, "missing_compiler", lambda _: "there is no C++ compiler")
    with pytest.raises(
        ValueError, match=r"^suites.buckets: it compiles, and there is no C\+\+ compiler; or set suites"
    ):
        measured("buckets", tmp_path, *[each for each in TINY if not each.startswith("backend")])
