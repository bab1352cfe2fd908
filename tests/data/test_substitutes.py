"""A bad sample is replaced by one that depends on the place alone, and by nothing when all are bad."""

import pickle
from functools import partial

import numpy as np
import pytest

from pixart.batch import Fault
from pixart.data.source import BadSample, Sample
from pixart.data.substitutes import ATTEMPTS, NothingLeft, read_all, read_or_substitute

IMAGE = np.zeros((1, 1, 3), np.uint8)


def substitute(k: int, position: int, attempt: int) -> int:
    return 1000 * k + 10 * position + attempt


def reader(*bad: int):
    def read(row: int) -> Sample:
        if row in bad:
            raise BadSample(f"key{row}", "broken")
        return Sample(f"key{row}", IMAGE, (), None)

    return read


def test_a_good_row_is_read_as_planned():
    row, sample, faults = read_or_substitute(reader(), 3, substitute, k=5, position=2)
    assert (row, sample.key, faults) == (3, "key3", ())


def test_a_bad_row_and_a_bad_first_substitute_give_way_to_the_second():
    row, sample, faults = read_or_substitute(reader(3, 5021), 3, substitute, k=5, position=2)
    assert (row, sample.key) == (5022, "key5022")
    assert faults == (Fault(5, 2, "key3", "broken"), Fault(5, 2, "key5021", "broken"))


def test_after_16_bad_substitutes_the_sentence_names_the_place_the_first_key_and_its_reason():
    tried = [3, *(5020 + attempt for attempt in range(1, ATTEMPTS + 1))]
    assert read_or_substitute(reader(*tried[:-1]), 3, substitute, k=5, position=2).row == tried[-1]
    with pytest.raises(
        NothingLeft, match=r"position 2 of global batch 5 is key3, .*\(broken\), and the 16 .*data\.quarantine.*doctor"
    ) as caught:
        read_or_substitute(reader(*tried), 3, substitute, k=5, position=2)
    assert [fault.key for fault in caught.value.faults] == [f"key{row}" for row in tried]


def test_the_only_sample_of_a_bucket_is_read_once_and_no_other_is_promised():
    reads = []

    def read(row: int) -> Sample:
        reads.append(row)
        raise BadSample("key3", "broken")

    with pytest.raises(NothingLeft, match="there is no other of its bucket"):
        read_or_substitute(read, 3, lambda _k, _position, _attempt: 3, k=5, position=0)
    assert reads == [3]


def test_where_2_of_3_positions_cannot_be_filled_the_faults_of_all_3_are_told():
    bad = reader(1, 2, *range(5021, 5037), 5010, *range(5001, 5017))
    reads = [
        partial(read_or_substitute, bad, row, substitute, k=5, position=position)
        for row, position in ((1, 0), (7, 1), (2, 2))
    ]
    assert read_all(reads[1:2])[0].row == 7
    with pytest.raises(NothingLeft, match="position 0 of") as caught:
        read_all(reads)
    assert {fault.position for fault in caught.value.faults} == {0, 2}
    assert len(caught.value.faults) == 34
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.faults) == (str(caught.value), caught.value.faults)


@pytest.mark.parametrize("error", [ValueError("an index that does not fit"), OSError("a disk"), IndexError(7)])
def test_nothing_stands_in_for_a_sample_whose_error_is_not_its_own(error: Exception):
    def read(_row: int) -> Sample:
        raise error

    with pytest.raises(type(error)) as caught:
        read_or_substitute(read, 3, substitute, k=5, position=2)
    assert caught.value is error


def test_a_bad_sample_comes_whole_out_of_another_process():
    again = pickle.loads(pickle.dumps(BadSample("a/b", "is no image")))
    assert (again.key, again.reason, str(again)) == ("a/b", "is no image", "a/b: is no image")
