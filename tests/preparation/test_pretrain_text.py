"""Laws of the pre-training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pixart.encoders.text import load_text_encoder
from pixart.preparation.pretrain_text import Size, Training, make_model, predict, pretrain, save_encoder
from pixart.preparation.span_corruption import Corruption, Vocabulary, documents, make_vocabulary, mask

SIZE = Size(dim=16, num_layers=1, num_heads=2, ff_dim=16)
HOW = Training(
    steps=3,
    batch_size=4,
    captions=(2,),
    faithful=0.9,
    mixture=(Corruption(0.3, 1.0),),
    lr=1e-2,
    position_lr=1e-1,
    warmup_steps=1,
    clip=1.0,
    seed=0,
)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return make_vocabulary(16)


def test_training_lowers_the_loss_below_that_of_random_weights(vocabulary: Vocabulary) -> None:
    losses: list[float] = []
    model = make_model(SIZE, vocabulary, seed=0)
    pretrain(model, vocabulary, HOW._replace(steps=40), progress=lambda _, loss: losses.append(loss))
    assert len(losses) == 40
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])


def test_the_same_seed_writes_the_same_bytes_and_another_seed_does_not(vocabulary: Vocabulary, tmp_path: Path) -> None:
    def written(name: str, seed: int) -> bytes:
        model = make_model(SIZE, vocabulary, seed=seed)
        pretrain(model, vocabulary, HOW._replace(seed=seed), progress=lambda *_: None)
        save_encoder(model, vocabulary, tmp_path / name)
        return (tmp_path / name / "model.safetensors").read_bytes()

    assert written("a", 0) == written("b", 0) != written("c", 1)
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} == names


def test_what_is_saved_is_the_encoder_alone_in_float32_and_gives_the_same_states(
    vocabulary: Vocabulary, tmp_path: Path
) -> None:
    model = make_model(SIZE, vocabulary, seed=0).eval()
    save_encoder(model, vocabulary, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    assert not [name for name in tensors if name.startswith("decoder")]
    encoder = load_text_encoder(str(tmp_path), max_tokens=20, cleaning="none", dtype=torch.float32)
    ids = torch.tensor([[*vocabulary.encode("a red circle"), 1]])
    with torch.no_grad():
        states = model.encoder(input_ids=ids).last_hidden_state
    torch.testing.assert_close(encoder(["a red circle"])[0], states, rtol=0, atol=0)


def test_predictions_of_the_decoder_do_not_see_the_token_they_predict(vocabulary: Vocabulary) -> None:
    model = make_model(SIZE, vocabulary, seed=0).eval()
    texts = list(documents(0, 2, seed=0, captions=(2,), faithful=1.0))
    masked = mask(texts, vocabulary, HOW.mixture, np.random.default_rng(0))
    changed = masked.target.clone()
    changed[:, 3:] = 5
    with torch.no_grad():
        before, after = predict(model, masked), predict(model, masked._replace(target=changed))
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4], after[:, 4])
