"""Laws of the tokenizer that loader workers carry."""

import pickle
from pathlib import Path

import pytest

from pixart.encoders.tokenizer import CACHED_CAPTIONS, Tokenizer


def test_a_pickle_is_small_and_tokenises_alike(random_t5: Path) -> None:
    tokenizer = Tokenizer(random_t5, max_tokens=8, cleaning="basic")
    ids = tokenizer.tokenize(["A red circle", "a Blue square left of a red circle"])
    pickled = pickle.dumps(tokenizer)
    assert len(pickled) < 1000
    assert pickle.loads(pickled).tokenize(["A red circle", "a Blue square left of a red circle"]) == ids


def test_a_repeated_caption_is_tokenised_once_and_its_ids_are_the_callers_own(random_t5: Path) -> None:
    tokenizer = Tokenizer(random_t5, max_tokens=8, cleaning="basic")
    first = tokenizer.tokenize(["a red circle"])
    expected = list(first[0])
    first[0].append(99)
    assert tokenizer.tokenize(["a red circle"] * 3) == [expected] * 3
    info = tokenizer._cached.cache_info()
    assert (info.misses, info.hits, info.maxsize) == (1, 3, CACHED_CAPTIONS)


def test_cleaning_happens_before_tokenisation(random_t5: Path) -> None:
    plain, official = (Tokenizer(random_t5, max_tokens=20, cleaning=c) for c in ("none", "official"))
    assert official.tokenize(["A (red) circle"]) == plain.tokenize(["a red circle"])
    assert 2 in plain.tokenize(["A (red) circle"])[0]


def test_impossible_settings_are_one_sentence_each(random_t5: Path) -> None:
    with pytest.raises(ValueError, match=r"^text_encoder\.max_tokens: 0 leaves no room"):
        Tokenizer(random_t5, max_tokens=0, cleaning="basic")
    with pytest.raises(ValueError, match=r"^text_encoder\.cleaning: 'twice' is unknown"):
        Tokenizer(random_t5, max_tokens=8, cleaning="twice")  # type: ignore[arg-type]


def test_a_folder_with_a_sentencepiece_model_alone_gives_its_pieces_and_the_end_token(tmp_path: Path) -> None:
    import sentencepiece

    (tmp_path / "corpus.txt").write_text("a red circle left of a blue square\na photo of an astronaut\n" * 20)
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "corpus.txt"),
        model_prefix=str(tmp_path / "spiece"),
        vocab_size=50,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    captions = ["a red circle of a zebra", "a photo"]
    ids = Tokenizer(tmp_path, max_tokens=120, cleaning="official").tokenize(captions)
    assert ids == [[*pieces.encode(caption), 1] for caption in captions]


def test_words_without_a_token_and_captions_that_are_too_long_are_told(random_t5: Path) -> None:
    tokenizer = Tokenizer(random_t5, max_tokens=5, cleaning="basic")
    captions = ["a red zebra", "a red circle", "a blue square left of a red zebra, and a cow"]
    assert tokenizer.unread(captions) == (("zebra", "cow"), 2, 1)
    assert tokenizer.unread(["a red circle", "A RED circle and"]) == ((), 0, 0)  # 4 tokens and the end
