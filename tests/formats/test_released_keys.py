"""The released models' exact tensors, without their memory: counts, shapes, and the way between all formats."""

from pathlib import Path

import foreign
import pytest
import torch

from pixart.formats.architecture import check, on_meta
from pixart.formats.diffusers_folder import diffusers_config
from pixart.formats.diffusers_names import join, split
from pixart.formats.official import read_official, to_official
from pixart.formats.positions import NOTHING

SINGLE = foreign.pixart_shapes()
MULTI = foreign.pixart_shapes(side=64, sizes=True)
DIT = foreign.dit_shapes()


def read_meta(shapes, scale=1.0):
    return read_official(Path("released.pth"), foreign.empty(shapes, scale=scale), NOTHING, NOTHING)


@pytest.mark.parametrize(
    ("shapes", "scale", "keys", "parameters"),
    [(SINGLE, 1.0, 437, 610_856_096), (MULTI, 2.0, 445, 611_349_152), (DIT, 1.0, 292, 674_834_720)],
)
def test_437_445_and_292_tensors_are_our_model_s_own(shapes, scale, keys, parameters):
    assert len(shapes) == keys
    weights = read_meta(shapes, scale)
    model = on_meta(Path("released.pth"), weights.model_config)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    if "y_embedder.y_embedding" in shapes:
        assert weights.null_caption is not None
        assert weights.null_caption.numel() == 491_520
    extra = {"pos_embed", "y_embedder.y_embedding"} & shapes.keys()
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == {
        name: shape for name, shape in shapes.items() if name not in extra
    }
    assert sorted(row.tensor for row in weights.rows) == sorted(shapes)


@pytest.mark.parametrize(("shapes", "scale", "keys"), [(SINGLE, 1.0, 603), (MULTI, 2.0, 611)])
def test_603_and_611_tensors_are_those_of_diffusers_and_the_way_back_is_whole(shapes, scale, keys):
    from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel

    weights = read_meta(shapes, scale)
    described = {k: v for k, v in diffusers_config(weights.model_config).items() if not k.startswith("_")}
    with torch.device("meta"):
        theirs = PixArtTransformer2DModel(**described).state_dict()
    assert len(theirs) == keys
    check(Path("diffusers"), split(weights.tensors), theirs)
    check(Path("ours"), join(theirs, weights.tensors), weights.tensors)
    back = to_official(weights, weights.null_caption)["state_dict"]
    assert {name: tuple(tensor.shape) for name, tensor in back.items()} == shapes
    assert not back["pos_embed"].is_meta
    torch.testing.assert_close(back["pos_embed"], foreign.empty(shapes, scale=scale)["pos_embed"], rtol=0, atol=1e-5)
