"""The sorted rows: by part, bucket and row; shards found among them; kept in a file that nobody has to trust."""

import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from pixart.data.planning.order import Order

ROWS = [np.array([3, 4, 7, 8, 9, 12]), np.arange(20, 24)]
SHARDS = [np.array([0, 0, 2, 2, 2, 5], dtype=np.int32), None]
BUCKETS = [np.array([1, 0, 1, 0, 1, 0], dtype=np.uint16), np.array([2, 2, 0, 2], dtype=np.uint16)]
SORTED = [4, 8, 12, 3, 7, 9, 22, 20, 21, 23]


def make_order(**changes: Any) -> Order:
    made = {"rows": ROWS, "shards": SHARDS, "buckets": BUCKETS, "num_buckets": 3, "cache": None, **changes}
    return Order(made.pop("rows"), made.pop("shards"), made.pop("buckets"), **made)


def mapped(order: Order) -> bool:
    return isinstance(order.rows.base, np.memmap)


def test_rows_are_sorted_by_part_then_bucket_then_row():
    order = make_order()
    assert order.rows.tolist() == SORTED
    assert order.counts.tolist() == [[3, 3, 0], [1, 0, 3]]
    assert [order.start(part, bucket) for part in (0, 1) for bucket in range(3)] == [0, 3, 6, 6, 7, 7]
    assert make_order(rows=[None, None]).rows.tolist() == [1, 3, 5, 0, 2, 4, 2, 0, 1, 3]


def test_a_place_names_the_rows_that_share_its_part_and_bucket():
    order = make_order()
    assert [order.group(place) for place in (0, 2, 3, 5, 6, 7, 9)] == [
        *((0, 3), (0, 3), (3, 3), (3, 3), (6, 1), (7, 3), (7, 3))
    ]


def test_pieces_are_the_shards_that_have_rows_of_a_bucket_with_their_place_and_length():
    order = make_order()
    columns = [[column.tolist() for column in order.pieces(*group)] for group in ((0, 0), (0, 1), (1, 2))]
    assert columns == [[[0, 2, 5], [0, 1, 2], [1, 1, 1]], [[0, 2], [3, 4], [1, 2]], [[0], [7], [3]]]


def test_the_digest_changes_with_rows_and_shards_and_not_with_the_cache(tmp_path: Path):
    base = make_order().digest()
    assert make_order(cache=tmp_path).digest() == make_order(cache=tmp_path).digest() == base
    more = [make_order(rows=[ROWS[0] + 1, ROWS[1]]), make_order(shards=[None, None])]
    assert len({base, *(order.digest() for order in more)}) == 3


def test_the_second_opening_maps_what_the_first_has_kept(tmp_path: Path):
    first, second = make_order(cache=tmp_path / "deep" / "cache"), make_order(cache=tmp_path / "deep" / "cache")
    assert mapped(first)
    assert mapped(second)
    assert first.rows.tolist() == second.rows.tolist() == SORTED
    assert len(list((tmp_path / "deep" / "cache").iterdir())) == 1
    make_order(rows=[ROWS[0] + 1, ROWS[1]], cache=tmp_path / "deep" / "cache")
    assert len(list((tmp_path / "deep" / "cache").iterdir())) == 2


@pytest.mark.parametrize("damage", ["flipped", "short", "empty", "foreign"])
def test_a_damaged_file_is_made_anew(damage: str, tmp_path: Path):
    make_order(cache=tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    flipped = whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:]
    path.write_bytes({"flipped": flipped, "short": whole[:-8], "empty": b"", "foreign": b"rows"}[damage])
    assert make_order(cache=tmp_path).rows.tolist() == SORTED
    assert path.read_bytes() == whole


def test_a_folder_that_cannot_be_written_leaves_the_rows_in_memory(tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    order = make_order(cache=tmp_path / "file")
    assert order.rows.tolist() == SORTED
    assert not mapped(order)


def test_a_disk_that_fills_up_leaves_the_rows_in_memory_and_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(file: BinaryIO, _: np.ndarray) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert make_order(cache=tmp_path).rows.tolist() == SORTED
    assert list(tmp_path.iterdir()) == []


def test_an_order_that_is_sent_to_another_process_maps_its_rows_again(tmp_path: Path):
    rows = [np.arange(50_000)]
    kept, held = (
        make_order(rows=rows, shards=[None], buckets=[np.zeros(50_000, dtype=np.uint16)], cache=cache)
        for cache in (tmp_path, None)
    )
    sent = pickle.dumps(kept)
    assert len(sent) < 10_000 < len(pickle.dumps(held))
    there = pickle.loads(sent)
    assert mapped(there)
    np.testing.assert_array_equal(there.rows, kept.rows)
    next(tmp_path.iterdir()).unlink()
    with pytest.raises(ValueError, match="keep it until the end"):
        pickle.loads(sent)
