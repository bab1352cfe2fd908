"""What samples lack is counted over all rows, with the first keys, and no sample is read for it."""

import numpy as np

from pixart.data.complete import lacking
from pixart.data.mixture import Mixture


def test_of_10_rows_4_have_no_caption_and_3_of_them_are_named(numbered: type):
    source = numbered(10, [(8, 8)])
    assert lacking(source, np.arange(10), captions=True, classes=None) == []
    source.caption_counts = np.array([1, 0, 2, 0, 0, 1, 1, 1, 1, 0], np.int16)
    (sentence,) = lacking(source, np.arange(10), captions=True, classes=None)
    assert sentence.startswith("4 of 10 samples (0001, 0003, 0004, …) have no caption")
    assert lacking(source, np.array([0, 2]), captions=True, classes=None) == []
    assert lacking(source, np.arange(10), captions=False, classes=None) == []


def test_of_10_rows_2_have_no_label_and_1_is_none_of_5_classes(numbered: type):
    source = numbered(10, [(8, 8)])
    assert lacking(source, np.arange(10), captions=False, classes=5) == []
    source.labels = np.array([0, -1, 1, 2, 5, 0, -1, 4, 3, 0])
    missing, outside = lacking(source, np.arange(10), captions=False, classes=5)
    assert missing.startswith("2 of 10 samples (0001, 0006) have no label")
    assert outside.startswith("1 of 10 samples (0004) have a label that is not one of the 5 classes")
    assert "the largest label is 5" in outside
    source.labels = None
    (none,) = lacking(source, np.arange(10), captions=False, classes=5)
    assert none.startswith("10 of 10 samples (0000, 0001, 0002, …) have no label")


def test_in_a_mixture_3_rows_without_a_count_have_captions_and_a_key_names_its_part(numbered: type):
    parts = {"photos": numbered(3, [(8, 8)]), "art": numbered(2, [(8, 8)])}
    assert Mixture(parts).caption_counts is None
    parts["art"].caption_counts = np.array([1, 0], np.int16)
    mixture = Mixture(parts)
    assert mixture.caption_counts is not None
    assert mixture.caption_counts.tolist() == [1, 1, 1, 1, 0]
    (sentence,) = lacking(mixture, np.arange(5), captions=True, classes=None)
    assert "(art/0001)" in sentence
