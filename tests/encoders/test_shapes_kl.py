"""Laws of the packaged autoencoder: small, and held-out scenes come back from it as they were."""

import pytest
import torch

from pixart.encoders.autoencoder import MINIATURES, Autoencoder, load_autoencoder
from pixart.preparation.pretrain_autoencoder import pictures, quality

FOLDER = MINIATURES["shapes-kl"]
KINDS = (("captioned", 32, 32), ("aesthetic", 40, 40), ("aesthetic", 32, 48), ("aesthetic", 48, 32))


@pytest.fixture(scope="module")
def packaged() -> Autoencoder:
    loaded = load_autoencoder("shapes-kl", dtype=torch.float32)
    assert isinstance(loaded, Autoencoder)
    return loaded


def test_it_takes_less_than_4_million_bytes_and_has_cells_of_8_pixels(packaged: Autoencoder) -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 4_000_000
    assert packaged.stride == 8


@pytest.mark.parametrize("kind", KINDS)
def test_100_held_out_scenes_come_back_at_30_db_and_the_detector_still_reads_95_of_them(
    packaged: Autoencoder, kind: tuple[str, int, int]
) -> None:
    found = quality(packaged.model, kind, 100, 0)  # type: ignore[arg-type]
    assert found.psnr > 30
    assert found.right >= 0.95


def test_its_latents_have_mean_0_and_deviation_1(packaged: Autoencoder) -> None:
    drawn = [packaged.encode(pictures(*kind, range(100), split="validation", seed=0)[0], None) for kind in KINDS]  # type: ignore[arg-type]
    latents = torch.cat([latent.flatten() for latent in drawn])
    assert latents.mean().abs() < 0.1
    assert 0.9 < latents.std() < 1.1
