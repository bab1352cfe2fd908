"""The miniature's step is timed beside its own matrix products, and profiled."""

from pathlib import Path

from measuring import measured


def test_the_step_its_ceiling_and_the_operators_it_spends_most_in(tmp_path: Path):
    figures = measured("tiny", tmp_path, "model.dim=48", "model.depth=1", "batch=2", "repeats=1", "shown=3")
    assert figures["step: ours share_of_matmul"].target == ">= 0.6"
    assert figures["step: ours tflops"].value > 0
    shares = [figure.value for name, figure in figures.items() if name.startswith("profile: ")]
    assert len(shares) == 3
    assert 0 < sum(shares) < 1
    assert shares == sorted(shares, reverse=True)


def test_the_settings_are_those_of_the_tiny_scale():
    from measuring import composed
    from miniature import composed as run

    tiny, training = composed("suite=tiny")["suites"]["tiny"], run("+stage=2", "scale=tiny")
    assert tiny["model"] == training["model"]
    assert tiny["objective"] == training["objective"]
    cells = training["resolution"] // training["autoencoder"]["stride"]
    assert (tiny["batch"], tiny["side"]) == (training["micro_batch"], cells)
    assert tiny["channels"] == training["autoencoder"]["channels"]
    assert (tiny["text"]["dim"], tiny["text"]["longest"]) == (
        training["text_encoder"]["dim"],
        training["text_encoder"]["max_tokens"],
    )
