"""A bad sample is replaced by one that depends on the place alone, and by nothing when all are bad."""

import pickle

import numpy as np
import pytest

from pixart.batch import Fault
from pixart.data.source import BadSample, Sample
from pixart.data.substitutes import ATTEMPTS, read_or_substitute

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
    with pytest.raises(ValueError, match=r"position 2 of global batch 5 and its 16 .* key3: broken"):
        read_or_substitute(reader(*tried), 3, substitute, k=5, position=2)


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
