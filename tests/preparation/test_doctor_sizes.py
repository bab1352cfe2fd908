"""Laws of what buckets do to images: crops and factors by hand, shares that add up, small buckets and their fates."""

import numpy as np
import pytest

from pixart.data.buckets import Bucket, official_buckets
from pixart.data.transforms import _cover
from pixart.preparation.doctor_sizes import CUT_EDGES, FACTOR_EDGES, Sized, Sizes, examine_sizes

SQUARE, TALL, WIDE = Bucket(64, 64), Bucket(96, 48), Bucket(48, 96)


def sized(*sizes: tuple[int, int], share: float = 1.0) -> Sized:
    return Sized(np.array([h for h, _ in sizes], np.int32), np.array([w for _, w in sizes], np.int32), share)


def examined(*parts: Sized, buckets: tuple[Bucket, ...] = (SQUARE,), batch: int = 1, small: str = "merge") -> Sizes:
    return examine_sizes(
        parts, buckets=buckets, global_batches=[batch] * len(buckets), small_buckets=small, distance="linear"
    )


def test_an_image_of_100_by_200_loses_half_of_its_pixels_to_a_square_and_is_scaled_by_0_64() -> None:
    (bucket,) = examined(sized((100, 200))).buckets
    assert bucket.cut == pytest.approx(0.5)
    assert bucket.factor_most == pytest.approx(0.64)
    assert bucket.enlarged == 0


def test_an_image_of_the_buckets_own_size_or_shape_loses_0_pixels_and_only_smaller_ones_are_scaled_up() -> None:
    sizes = examined(sized((64, 64), (128, 128), (32, 32), (63, 63)))
    assert (sizes.cut, sizes.enlarged) == (0, 0.5)
    assert sizes.buckets[0].factor_most == pytest.approx(2)


def test_crops_are_those_that_training_makes_within_1_pixel_of_rounding() -> None:
    rng = np.random.default_rng(0)
    for height, width in rng.integers(40, 900, size=(50, 2)).tolist():
        cover = _cover(height, width, SQUARE)
        kept = SQUARE.height * SQUARE.width / (cover[0] * cover[1])
        assert examined(sized((height, width))).cut == pytest.approx(1 - kept, abs=1 / 64)


def test_bars_hold_every_image_once_and_add_up_to_1() -> None:
    rng = np.random.default_rng(1)
    sizes = examined(
        sized(*map(tuple, rng.integers(20, 3000, size=(500, 2)).tolist())), buckets=official_buckets(1024), batch=1
    )
    assert sum(sizes.cut_bars) == pytest.approx(1)
    assert sum(sizes.factor_bars) == pytest.approx(1)
    assert (len(sizes.cut_bars), len(sizes.factor_bars)) == (len(CUT_EDGES) - 1, len(FACTOR_EDGES) - 1)
    assert sum(sizes.factor_bars[5:]) == pytest.approx(sizes.enlarged)
    assert sum(bucket.samples for bucket in sizes.buckets) == 500


def test_an_image_that_is_not_scaled_stands_below_the_edge_of_1() -> None:
    bars = examined(sized((64, 64))).factor_bars
    assert bars[FACTOR_EDGES.index(1.0) - 1] == 1


def test_a_data_set_of_weight_3_to_1_counts_3_times_as_much_whatever_its_size() -> None:
    cropped, whole = sized((100, 200), share=0.75), sized(*[(64, 64)] * 10, share=0.25)
    assert examined(cropped, whole).cut == pytest.approx(0.75 * 0.5)


def test_a_merged_bucket_of_3_goes_to_its_neighbour_and_is_cropped_there() -> None:
    sizes = examined(sized(*[(64, 64)] * 9, *[(96, 48)] * 3), buckets=(WIDE, SQUARE, TALL), batch=4)
    (small,) = sizes.small
    assert (small.bucket, small.samples, small.fate) == (TALL, 3, "goes to 64x64")
    (bucket,) = sizes.buckets
    assert (bucket.bucket, bucket.samples, bucket.cut_most) == (SQUARE, 12, pytest.approx(0.5))
    assert sizes.empty == 1


def test_a_repeated_bucket_of_3_shows_a_sample_twice_in_a_batch_of_4_and_a_refused_one_stops() -> None:
    parts = sized(*[(64, 64)] * 9, *[(96, 48)] * 3)
    for small, fate in {"repeat": "each sample up to 2 times in a batch", "refuse": "stops the run"}.items():
        sizes = examined(parts, buckets=(SQUARE, TALL), batch=4, small=small)
        assert [one.fate for one in sizes.small] == [fate]
        assert [one.samples for one in sizes.buckets] == [9, 3]


def test_a_bucket_of_3_that_takes_in_one_of_2_is_filled() -> None:
    sizes = examined(sized(*[(96, 48)] * 2, *[(64, 64)] * 3), buckets=(SQUARE, TALL), batch=4)
    assert [one.fate for one in sizes.small] == ["is filled from smaller ones", "goes to 64x64"]
