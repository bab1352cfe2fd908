"""What a batch of a run holds, by its configuration."""

from pathlib import Path

import pytest
from miniature import small

from pixart.build.opening import opened, planned
from pixart.build.parts import autoencoder, text_encoder
from pixart.build.reading import examples
from pixart.data.dataset import Cut


@pytest.mark.parametrize(("posterior", "noise"), [("drawn", True), ("mean", False)])
def test_noise_for_the_posterior_is_made_where_latents_are_drawn_from_it(
    tmp_path: Path, posterior: str, noise: bool
) -> None:
    config = small(
        2, tmp_path / "run", "autoencoder=shapes_kl", "model.patch_size=1", f"autoencoder.posterior={posterior}"
    )
    data = opened(config)
    plan = planned(config, data, order_cache=None)
    made = examples(config, data.source, plan, text_encoder(config), autoencoder(config), training=True)
    batch = made[Cut(0, 0, 2)]
    assert (batch.posterior_noise is not None) == noise
