"""A small random T5 in the real format, for the laws that need no training."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def random_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with config, safetensors and tokenizer of a T5 encoder of width 16 that knows a dozen words."""
    import torch
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    words = ["a", "red", "blue", "green", "circle", "square", "left", "right", "of", "and", ",", "."]
    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        *((f"\u2581{w}" if w.isalpha() else w, -2.0) for w in words),
    ]
    folder = tmp_path_factory.mktemp("t5")
    T5Tokenizer(vocab=pieces, extra_ids=2).save_pretrained(folder)
    torch.manual_seed(0)
    config = T5Config(vocab_size=24, d_model=16, d_kv=8, num_heads=2, d_ff=32, num_layers=2, initializer_factor=1.0)
    T5EncoderModel(config).save_pretrained(folder)
    return folder
