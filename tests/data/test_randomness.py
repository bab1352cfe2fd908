"""Laws of the counter-based generators and of the keyed bijection."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixart.data.randomness import RANDOMNESS_VERSION, another, generator, mixed, permuted, uniforms


def test_a_generator_depends_on_each_of_its_four_words_and_on_nothing_else():
    words = (3, 5, 7, "noise")
    first = generator(*words).random(4)
    np.testing.assert_array_equal(first, generator(*words).random(4))
    for other in [(4, 5, 7, "noise"), (3, 6, 7, "noise"), (3, 5, 8, "noise"), (3, 5, 7, "drop"), (3, -5, 7, "noise")]:
        assert not np.array_equal(first, generator(*other).random(4))


def test_the_numbers_of_seed_1_are_those_of_this_randomness_version():
    assert RANDOMNESS_VERSION == "philox4x64-10/feistel8-splitmix64/1"  # change both or neither
    assert generator(1, 2, 3, "noise").integers(0, 1 << 62, 2).tolist() == [1786406642858788110, 2495641953091298758]
    assert permuted(np.arange(8), 8, mixed(1, 2)).tolist() == [6, 3, 7, 4, 1, 0, 5, 2]
    assert generator(1, 2, 3, "noise").standard_normal(2, dtype=np.float32).tolist() == [
        0.9702885150909424,
        -0.5973666310310364,
    ]
    assert uniforms(1, 2, 3, stratified=True).tolist() == [0.24913959664676855, 0.4961803784086089, 0.8565106563102747]


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_outside_64_bits_is_refused(seed: int):
    with pytest.raises(ValueError, match=f"seed={seed}"):
        generator(seed, 0, 0, "noise")


@given(st.integers(0, 2**63), st.integers(-5, 10**9), st.integers(1, 300))
@settings(max_examples=25, deadline=None)
def test_stratified_uniforms_put_one_number_into_each_part_of_the_unit_interval(seed: int, k: int, count: int):
    u = uniforms(seed, k, count, stratified=True)
    assert u.dtype == np.float64
    assert (u >= 0).all()
    assert (u < 1).all()
    assert sorted(np.floor(u * count).astype(int)) == list(range(count))


def test_strata_are_permuted_anew_at_every_k_and_plain_uniforms_are_independent():
    a, b = (np.floor(uniforms(0, k, 64, stratified=True) * 64) for k in (0, 1))
    assert not np.array_equal(a, b)
    assert len(set(np.floor(uniforms(0, 0, 64, stratified=False) * 64))) < 64


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
@settings(max_examples=40, deadline=None)
def test_permuted_is_a_bijection_for_every_count_and_key(count: int, key: int):
    image = permuted(np.arange(count), count, mixed(key))
    assert sorted(image.tolist()) == list(range(count))


def test_permutations_of_4_things_under_6000_keys_are_all_24_about_equally_often():
    keys = np.repeat(mixed(9, np.arange(6000)), 4)
    images = permuted(np.tile(np.arange(4), 6000), 4, keys).reshape(6000, 4)
    _, counts = np.unique(images, axis=0, return_counts=True)
    assert len(counts) == 24
    assert ((counts - 250) ** 2 / 250).sum() < 60  # chi-squared with 23 degrees of freedom: 60 is p = 4e-5


def test_neighbours_of_a_large_permutation_land_anywhere():
    count = 10**7
    image = permuted(np.arange(20_000), count, mixed(3))
    parts = np.bincount(image * 20 // count, minlength=20)
    assert abs(parts - 1000).max() < 150
    assert abs(np.corrcoef(image[1:], image[:-1])[0, 1]) < 0.03


@given(st.lists(st.tuples(st.integers(1, 2**45), st.integers(0, 2**64 - 1)), min_size=1, max_size=20), st.data())
@settings(max_examples=30, deadline=None)
def test_each_of_many_permutations_read_at_once_is_what_it_is_on_its_own(
    pairs: list[tuple[int, int]], data: st.DataObject
):
    index = np.array([data.draw(st.integers(0, count - 1)) for count, _ in pairs])
    counts, keys = np.array([count for count, _ in pairs]), np.concatenate([mixed(key) for _, key in pairs])
    alone = [int(permuted(index[i : i + 1], int(counts[i]), keys[i : i + 1])[0]) for i in range(len(pairs))]
    assert permuted(index, counts, keys).tolist() == alone
    assert (np.array(alone) < counts).all()


@given(st.integers(2, 60), st.data())
@settings(max_examples=20, deadline=None)
def test_another_finds_each_other_number_once_and_then_begins_anew(count: int, data: st.DataObject):
    index = data.draw(st.integers(0, count - 1))
    found = [another(index, count, attempt, mixed(4)) for attempt in range(1, 2 * count - 1)]
    assert sorted(found[: count - 1]) == [number for number in range(count) if number != index]
    assert found[: count - 1] == found[count - 1 :]


def test_the_only_number_there_is_has_no_other():
    assert another(0, 1, 5, mixed(4)) == 0
