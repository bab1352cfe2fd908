"""Drawing by ours and by the peers comes to the same latents before it is timed."""

from pathlib import Path

import pytest
import torch
from measuring import measured

from pixart.batch import Conditioning, places_of
from pixart.benchmark.sample import Drawing, _captions
from pixart.models.dit import PixArt

TINY = [
    *("device=cpu", "model.dim=48", "model.num_heads=4", "text={dim:20,mean:3,longest:6}"),
    *("compilation.backend=eager", "cpu.two_blocks.resolution=64", "cpu.two_blocks.steps=2", "cpu.two_blocks.batch=2"),
    *("cpu.two_blocks.encoders.autoencoder=[8,8,8,8]", "cpu.two_blocks.encoders.text_hidden=8"),
]


@pytest.mark.parametrize("pipelines", ["auto", "always"])
def test_four_contenders_of_equal_latents_are_timed_and_the_pipelines_where_asked_for(tmp_path: Path, pipelines: str):
    said: list[str] = []
    figures = measured("sample", tmp_path, *TINY, f"pipelines={pipelines}", said=said)
    for contender in ("eager", "compiled", "ours", "ours_compiled"):
        assert figures[f"two_blocks: {contender} steps_per_second"].value > 0
        whole = f"two_blocks, whole pipeline: {contender} pictures_per_second"
        assert (whole in figures) == (pipelines == "always")
    assert figures["two_blocks: ratio_vs_eager"].target == "<= 0.75"
    assert figures["two_blocks: ratio_vs_compiled"].target == "<= 0.93"
    assert any("the whole pipelines are left out on the CPU" in line for line in said) == (pipelines == "auto")


def test_the_whole_pipelines_are_of_those_contenders_alone_that_fitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = Drawing.draw

    def draw(drawing: Drawing, *steps: int) -> torch.Tensor:
        if not isinstance(drawing.denoiser, PixArt):
            raise torch.OutOfMemoryError
        return whole(drawing, *steps)

    monkeypatch.setattr(Drawing, "draw", draw)
    case = "cpu.two_blocks.contenders=[eager,ours_compiled]"
    figures = measured("sample", tmp_path, *TINY, "pipelines=always", case)
    timed = [name for name in figures if name.endswith("per_second")]
    assert timed == [
        "two_blocks: ours_compiled steps_per_second",
        "two_blocks, whole pipeline: ours_compiled pictures_per_second",
    ]


def test_a_null_caption_has_1_token_however_it_is_padded():
    mask = torch.arange(6) < torch.tensor([[4], [2]])
    cond = Conditioning(tokens=torch.randn(2, 6, 3), mask=mask, places=places_of(mask))
    for padded, lengths in ((False, (4, 1)), (True, (6, 6))):
        given, null = _captions(cond, padded=padded)
        assert given.mask is not None
        assert null.mask is not None
        assert (given.mask.shape[1], null.mask.shape[1]) == lengths
        assert null.mask.sum(dim=1).tolist() == [1, 1]
        assert given.mask.sum(dim=1).tolist() == [4, 2]
        assert given.places is null.places is None  # those of captions cut to another length
