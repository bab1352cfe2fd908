"""Laws of the quarantine: exactly its keys are left out, each addition is a version, and damage is one sentence."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pixart.data.storage.index import digests_of
from pixart.data.storage.quarantine import Quarantine, add, read_quarantine, rows_left

KEYS = [f"00000/{i:05d}" for i in range(1000)]


def left(keys: dict[str, str], digests: np.ndarray | None = None) -> list[int]:
    """The rows of KEYS that are left out."""
    digests = digests_of(KEYS) if digests is None else digests
    column = pa.array(KEYS, pa.large_string())
    return np.flatnonzero(~rows_left(digests, column, Quarantine(1, keys, ""))).tolist()


def test_exactly_the_rows_of_its_keys_are_left_out_and_unknown_keys_leave_out_none():
    assert left({KEYS[3]: "dark", KEYS[999]: "cut", "elsewhere": "unknown"}) == [3, 999]
    assert left({}) == []
    assert left(dict.fromkeys(KEYS, "all")) == list(range(1000))


def test_the_rows_may_be_looked_at_in_pieces_of_any_size(monkeypatch: pytest.MonkeyPatch):
    for piece in (1, 7, 1000):
        monkeypatch.setattr("pixart.data.storage.quarantine._PIECE", piece)
        assert left({KEYS[0]: "", KEYS[6]: "", KEYS[7]: "", KEYS[999]: ""}) == [0, 6, 7, 999]


def test_a_key_that_shares_its_digest_with_another_stays():
    digests = digests_of(KEYS)
    digests[5] = digests[3]
    assert left({KEYS[3]: "dark"}, digests) == [3]


def test_each_addition_is_the_next_version_and_nothing_new_is_none(tmp_path: Path):
    path = tmp_path / "deep" / "bad.json"
    assert add(path, {"b": "cut"}).version == 1
    second = add(path, {"a": "dark", "b": "again"})
    assert second == read_quarantine(path)
    assert (second.version, second.keys) == (2, {"a": "dark", "b": "cut"})
    before = path.read_bytes()
    assert add(path, {"a": "bright"}) == second
    assert path.read_bytes() == before
    assert json.loads(before) == {"format": "pixart-quarantine", "version": 2, "keys": {"a": "dark", "b": "cut"}}
    assert [path.name for path in path.parent.iterdir()] == ["bad.json"]


def test_the_fingerprint_is_of_the_keys_and_not_of_their_order_reasons_or_version(tmp_path: Path):
    one = add(tmp_path / "1", {"a": "x", "é": "y"})
    add(tmp_path / "2", {"é": "z"})
    two = add(tmp_path / "2", {"a": "x"})
    assert one.fingerprint == two.fingerprint == read_quarantine(tmp_path / "1").fingerprint
    assert add(tmp_path / "2", {"c": "x"}).fingerprint != one.fingerprint


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is missing"),
        (b"{", "is no JSON"),
        (b"\xff", "is no JSON"),
        (b"[]", "another kind of file"),
        (b'{"format": "zip", "version": 1, "keys": {}}', "another kind of file"),
        (b'{"format": "pixart-quarantine", "version": 0, "keys": {}}', "version"),
        (b'{"format": "pixart-quarantine", "version": 1, "keys": ["a"]}', "keys"),
        (b'{"format": "pixart-quarantine", "version": 1, "keys": {"a": 5}}', "keys"),
        (b'{"format": "pixart-quarantine", "version": 1, "keys": {"a": "x"}, "keys": {}}', "says 'keys' twice"),
        (b'{"format": "pixart-quarantine", "version": 1, "keys": {"a": "x", "a": "y"}}', "says 'a' twice"),
        (
            b'{"format": "pixart-quarantine", "version": 1, "keys": {"b": "", "\\ud800": "x"}}',
            "its key .* half a character",
        ),
        (b'{"keys": ' + b"[" * 100_000, "is no JSON of this kind"),
    ],
)
def test_damage_is_one_sentence_that_names_the_file(tmp_path: Path, content: bytes | None, words: str):
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as error:
        read_quarantine(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
