"""The official tables, the lists of a configuration, and the assignment of images."""

import numpy as np
import pytest

from pixart.data.buckets import Bucket, assign, batch_sizes, buckets_for, official_bins, official_buckets, settled

KEYS = [
    0.25,
    0.26,
    0.27,
    0.28,
    0.32,
    0.33,
    0.35,
    0.4,
    0.42,
    0.48,
    0.5,
    0.52,
    0.57,
    0.6,
    0.68,
    0.72,
    0.78,
    0.82,
    0.88,
    0.94,
]
KEYS += [
    1.0,
    1.07,
    1.13,
    1.21,
    1.29,
    1.38,
    1.46,
    1.67,
    1.75,
    2.0,
    2.09,
    2.4,
    2.5,
    2.89,
    3.0,
    3.11,
    3.62,
    3.75,
    3.88,
    4.0,
]


def test_the_table_for_1024_pixels_has_the_40_official_keys_and_sizes():
    table = official_buckets(1024)
    assert [bucket.key for bucket in table] == KEYS
    assert table[0] == (512, 2048)
    assert table[20] == (1024, 1024)
    assert table[11] == (704, 1344)
    assert all(0.9 < b.height * b.width / 1024**2 <= 1 for b in table)


@pytest.mark.parametrize("resolution", [512, 256])
def test_the_tables_for_512_and_256_are_a_half_and_a_quarter(resolution: int):
    scale = 1024 // resolution
    assert [(b.height * scale, b.width * scale) for b in official_buckets(resolution)] == list(official_buckets(1024))


def test_the_33_inference_sizes_are_those_of_diffusers_for_1024_512_and_256():
    from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import ASPECT_RATIO_512_BIN, ASPECT_RATIO_1024_BIN
    from diffusers.pipelines.pixart_alpha.pipeline_pixart_sigma import ASPECT_RATIO_256_BIN

    for resolution, table in ((1024, ASPECT_RATIO_1024_BIN), (512, ASPECT_RATIO_512_BIN), (256, ASPECT_RATIO_256_BIN)):
        bins = official_bins(resolution)
        assert len(bins) == 33
        assert {bucket.key: list(bucket) for bucket in bins} == {float(key): size for key, size in table.items()}


def test_a_resolution_without_a_table_is_refused():
    with pytest.raises(ValueError, match="resolution=300 has no official buckets"):
        official_buckets(300)


def test_a_run_chooses_the_square_the_table_or_its_own_sizes():
    assert buckets_for(48, "square") == ((48, 48),)
    assert len(buckets_for(512, "aspect_ratio")) == 40
    assert buckets_for(48, [[48, 48], [56, 40], [40, 56]]) == ((40, 56), (48, 48), (56, 40))


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ([[48]], "is not"),
        ([[48, 0]], "is not"),
        ([], "neither square"),
        ("round", "neither square"),
        ([[8, 8], [16, 16]], "same"),
    ],
)
def test_a_list_of_sizes_that_makes_no_sense_is_refused(choice: object, words: str):
    with pytest.raises(ValueError, match=words):
        buckets_for(48, choice)


def test_linear_assignment_is_the_nearest_key_as_the_official_code_computes_it():
    rng = np.random.default_rng(0)
    heights, widths = rng.integers(100, 3000, 2000), rng.integers(100, 3000, 2000)
    table = official_buckets(256)
    official = [min(range(40), key=lambda i: abs(KEYS[i] - h / w)) for h, w in zip(heights, widths, strict=True)]
    np.testing.assert_array_equal(assign(heights, widths, buckets=table, distance="linear"), official)


def test_log_assignment_treats_tall_and_wide_alike_and_does_not_depend_on_the_order_of_buckets():
    buckets = [Bucket(56, 40), Bucket(40, 56), Bucket(48, 48)]
    heights, widths = np.array([100, 130, 100, 500]), np.array([130, 100, 100, 100])
    assert assign(heights, widths, buckets=buckets, distance="log").tolist() == [1, 0, 2, 0]


def test_constant_tokens_give_a_bucket_of_half_the_area_twice_the_batch():
    buckets = [Bucket(64, 64), Bucket(32, 64)]
    assert batch_sizes(buckets, global_batch=6, constant_tokens=True) == (6, 12)
    assert batch_sizes(buckets, global_batch=6, constant_tokens=False) == (6, 6)


@pytest.mark.parametrize(
    ("policy", "counts", "target"),
    [
        ("repeat", [1, 0, 9], [0, 1, 2]),
        ("refuse", [6, 0, 9], [0, 1, 2]),  # an empty bucket is no small one
        ("merge", [1, 9, 9], [1, 1, 2]),
        ("merge", [9, 1, 3], [0, 2, 2]),  # to the nearest ratio, and on from there while it is too small
        ("merge", [2, 2, 2], [1, 1, 1]),
    ],
)
def test_small_buckets_go_where_their_policy_says(policy: str, counts: list[int], target: list[int]):
    buckets = [Bucket(32, 64), Bucket(60, 64), Bucket(64, 64)]
    settled_to = settled(np.array(counts), buckets=buckets, sizes=[4, 4, 4], small_buckets=policy)
    assert settled_to.tolist() == target


@pytest.mark.parametrize(("policy", "counts"), [("refuse", [3, 9]), ("merge", [3, 0])])
def test_a_bucket_that_stays_small_stops_the_run_with_the_mend(policy: str, counts: list[int]):
    buckets = [Bucket(32, 64), Bucket(64, 64)]
    with pytest.raises(ValueError, match="bucket 32x64 has 3 samples, fewer than its global batch of 4: choose"):
        settled(np.array(counts), buckets=buckets, sizes=[4, 4], small_buckets=policy)
