"""Laws of the text encoder, on a small random T5."""

import os
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pixart.encoders.text import MINIATURES, TextEncoder, load_text_encoder, load_tokenizer, pad

CAPTIONS = ["a red circle", "a blue square left of a green circle, and a red square.", ""]


def loaded(folder: Path, *, max_tokens: int = 120, cleaning: str = "basic", dtype: torch.dtype = torch.float32):  # type: ignore[no-untyped-def]
    return load_text_encoder(str(folder), max_tokens=max_tokens, cleaning=cleaning, dtype=dtype)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def encoder(random_t5: Path) -> TextEncoder:
    return loaded(random_t5)


def test_token_ids_keep_their_true_length_and_end_with_the_end_token(encoder: TextEncoder) -> None:
    ids = encoder.tokenize(CAPTIONS)
    assert [len(x) for x in ids] == [4, 15, 1]
    assert all(x[-1] == 1 for x in ids)


def test_truncation_to_5_tokens_keeps_4_words_and_the_end_token(random_t5: Path) -> None:
    assert loaded(random_t5, max_tokens=5).tokenize(CAPTIONS[1:2]) == [
        [*loaded(random_t5).tokenize(CAPTIONS[1:2])[0][:4], 1]
    ]


def test_pad_gives_zeros_and_a_mask_of_the_true_lengths() -> None:
    tokens, mask = pad([[5, 1], [1]])
    assert tokens.tolist() == [[5, 1], [1, 0]]
    assert tokens.dtype == torch.int64
    assert mask.tolist() == [[True, True], [True, False]]


def test_padding_length_does_not_change_real_tokens_and_padding_is_zero(encoder: TextEncoder) -> None:
    tokens, mask = pad(encoder.tokenize(CAPTIONS))
    longer, longer_mask = (torch.nn.functional.pad(x, (0, 20)) for x in (tokens, mask))
    longer[~longer_mask] = 7  # nor does what lies in the padding
    states, longer_states = encoder.encode(tokens, mask), encoder.encode(longer, longer_mask)
    torch.testing.assert_close(longer_states[:, : tokens.shape[1]], states)
    assert not longer_states[~longer_mask].any()


def test_a_batch_of_three_equals_three_batches_of_one(encoder: TextEncoder) -> None:
    states, mask = encoder(CAPTIONS)
    for row, caption in enumerate(CAPTIONS):
        torch.testing.assert_close(states[row][mask[row]], encoder([caption])[0][0])


def test_a_row_that_is_all_padding_is_all_zeros_and_not_nan(encoder: TextEncoder) -> None:
    tokens, mask = pad(encoder.tokenize(CAPTIONS[:2]))
    mask[0] = False
    states = encoder.encode(tokens, mask)
    assert not states[0].any()
    assert states[1].isfinite().all()


class Asked(TorchDispatchMode):
    """How often the host waited for a value."""

    count = 0

    def __torch_dispatch__(self, operator, _types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += operator._schema.name in ("aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal")
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("lengths", [(5,), (6, 6), (7, 3, 1), (9, 0, 4)])
def test_states_are_those_of_a_mask_of_2_dimensions_to_the_bit_and_the_host_asks_for_nothing(
    lengths: tuple[int, ...], implementation: str, dtype: torch.dtype
) -> None:
    encoder = loaded(MINIATURES["shapes-t5"], dtype=dtype)
    encoder.model.set_attn_implementation(implementation)
    tokens = torch.randint(2, 50, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    with Asked() as asked:
        states = encoder.encode(tokens, mask)
    assert asked.count == 0
    seen = (mask | ~mask.any(1, keepdim=True)).long()
    plain = encoder.model(input_ids=tokens, attention_mask=seen).last_hidden_state.float()
    assert torch.equal(states, plain.masked_fill(~mask[..., None], 0.0))


def test_states_are_float32_of_width_16_without_gradient_also_under_autocast(encoder: TextEncoder) -> None:
    states, _ = encoder(CAPTIONS)
    assert (states.dtype, states.shape, states.requires_grad) == (torch.float32, (3, 15, 16), False)
    assert (encoder.dim, encoder.max_tokens) == (16, 120)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(encoder(CAPTIONS)[0], states, rtol=0, atol=0)


def test_float16_weights_keep_wo_in_float32_and_give_nearby_states(random_t5: Path, encoder: TextEncoder) -> None:
    half = loaded(random_t5, dtype=torch.float16)
    kept = {name for name, p in half.model.named_parameters() if p.dtype == torch.float32}
    assert kept == {f"encoder.block.{i}.layer.1.DenseReluDense.wo.weight" for i in range(2)}
    torch.testing.assert_close(half(CAPTIONS)[0], encoder(CAPTIONS)[0], rtol=0.02, atol=0.02)


def test_fingerprints_differ_in_max_tokens_cleaning_dtype_weights_and_vocabulary(
    random_t5: Path, encoder: TextEncoder, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    retrained = Path(copytree(random_t5, tmp_path / "retrained"))
    weights = load_file(retrained / "model.safetensors")
    weights["shared.weight"][5, 0] += 1e-3
    save_file(weights, retrained / "model.safetensors", metadata={"format": "pt"})
    reworded = Path(copytree(random_t5, tmp_path / "reworded"))
    vocabulary = reworded / "tokenizer.json"
    vocabulary.write_text(vocabulary.read_text().replace("green", "mauve"))
    moved = Path(copytree(random_t5, tmp_path / "moved"))
    prints = [
        encoder.fingerprint,
        loaded(random_t5, max_tokens=119).fingerprint,
        loaded(random_t5, cleaning="official").fingerprint,
        loaded(random_t5, dtype=torch.bfloat16).fingerprint,
        loaded(retrained).fingerprint,
        loaded(reworded).fingerprint,
    ]
    assert len(set(prints)) == 6
    assert loaded(moved).fingerprint == encoder.fingerprint


def test_a_pipelines_two_folders_are_found(random_t5: Path, encoder: TextEncoder, tmp_path: Path) -> None:
    copytree(random_t5, tmp_path / "text_encoder", ignore=lambda *_: {"tokenizer.json", "tokenizer_config.json"})
    (tmp_path / "tokenizer").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "tokenizer" / name).write_bytes((random_t5 / name).read_bytes())
    pipeline = loaded(tmp_path)
    assert pipeline.fingerprint == encoder.fingerprint
    torch.testing.assert_close(pipeline(CAPTIONS)[0], encoder(CAPTIONS)[0], rtol=0, atol=0)


def test_unreadable_folders_are_one_sentence_each_with_the_key(random_t5: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^text_encoder\.source: no folder '.*'; give a folder"):
        loaded(tmp_path / "nowhere")
    without = Path(copytree(random_t5, tmp_path / "without", ignore=lambda *_: {"tokenizer.json"}))
    with pytest.raises(ValueError, match=r"^text_encoder\.source: .*without holds neither tokenizer.json nor"):
        loaded(without)
    pickled = Path(copytree(random_t5, tmp_path / "pickled"))
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"^text_encoder\.source: .* holds no model\*\.safetensors; .* never read\)$"):
        loaded(pickled)
    broken = Path(copytree(random_t5, tmp_path / "broken"))
    (broken / "model.safetensors").write_bytes((random_t5 / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"^text_encoder\.source: .*broken is not a readable T5 encoder"):
        loaded(broken)
    deeper = Path(copytree(random_t5, tmp_path / "deeper"))
    config = (deeper / "config.json").read_text().replace('"num_layers": 2', '"num_layers": 3')
    (deeper / "config.json").write_text(config)
    with pytest.raises(ValueError, match=r"^text_encoder\.source: the weights in .*deeper lack \d+ tensors"):
        loaded(deeper)


def test_the_tokenizer_loads_no_t5_and_gives_the_same_ids_in_another_process(
    random_t5: Path, encoder: TextEncoder
) -> None:
    program = (
        "import sys; from pathlib import Path; from pixart.encoders.tokenizer import Tokenizer; "
        f"t = Tokenizer(Path({str(random_t5)!r}), max_tokens=120, cleaning='basic'); print(t.tokenize({CAPTIONS!r})); "
        "print('transformers.models.t5.modeling_t5' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines() == [str(encoder.tokenize(CAPTIONS)), "False"]
    assert load_tokenizer(str(random_t5), max_tokens=120, cleaning="basic").tokenize(CAPTIONS) == encoder.tokenize(
        CAPTIONS
    )


def test_deferred_weights_are_read_with_the_first_caption_and_then_give_the_same_states(
    random_t5: Path, tmp_path: Path
) -> None:
    now = load_text_encoder(str(random_t5), max_tokens=9, cleaning="none", dtype=torch.float32)
    later = load_text_encoder(str(random_t5), max_tokens=9, cleaning="none", dtype=torch.float32, defer=True)
    assert (later.fingerprint, later.dim) == (now.fingerprint, now.dim)
    assert "model" not in vars(later.to("cpu"))
    assert torch.equal(later(["a red circle"])[0], now(["a red circle"])[0])
    broken = Path(copytree(random_t5, tmp_path / "broken"))
    (broken / "model.safetensors").write_bytes(b"no weights")
    never = load_text_encoder(str(broken), max_tokens=9, cleaning="none", dtype=torch.float32, defer=True)
    with pytest.raises(ValueError, match=r"broken is not a readable T5 encoder"):
        never(["a red circle"])
