import pytest

from pixart.models.sizes import SIZES


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("S/2", (12, 384, 6, 2)),
        ("B/2", (12, 768, 12, 2)),
        ("L/2", (24, 1024, 16, 2)),
        ("XL/2", (28, 1152, 16, 2)),
        ("tiny", (4, 128, 4, 4)),
    ],
)
def test_size_has_its_depth_width_heads_and_patch(name, numbers):
    assert tuple(SIZES[name][key] for key in ("depth", "dim", "num_heads", "patch_size")) == numbers


@pytest.mark.parametrize("name", sorted(SIZES))
def test_every_size_builds_with_every_conditioning(small, name):
    import torch

    with torch.device("meta"):
        model = small(**SIZES[name], size_conditioning=True, num_classes=10)
    assert len(model.blocks) == SIZES[name]["depth"]
