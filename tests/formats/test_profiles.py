"""Laws of the profiles, and of one as a sum of others."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixart.formats.profile_fit import Column, Fit, Tracked, fit
from pixart.formats.profiles import NARROWEST, WIDEST, Exponential, Power, Profile, choose, gamma_of, sigma_of


def counted(profile: Profile, step: int) -> Column:
    """p_step(i) for i = 1 … step, by its definition."""
    kept = [profile.kept(i) for i in range(1, step + 1)]
    return np.array([(1 - kept[i]) * math.prod(kept[i + 1 :]) for i in range(step)])


@settings(max_examples=50)
@given(st.floats(NARROWEST, WIDEST, exclude_max=True))
def test_width_and_exponent_are_inverse_to_12_digits(sigma_rel: float) -> None:
    gamma = gamma_of(sigma_rel)
    assert gamma > 0
    assert sigma_of(gamma) == pytest.approx(sigma_rel, rel=1e-12)


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_the_exponents_are_the_2_of_the_paper(sigma_rel: float, gamma: float) -> None:
    assert gamma_of(sigma_rel) == pytest.approx(gamma, abs=0.005)


def test_a_width_is_the_standard_deviation_of_its_profile_in_units_of_the_step() -> None:
    share, i = counted(Power(0.1), 2000), np.arange(1, 2001)
    mean = (share * i).sum()
    assert math.sqrt((share * (i - mean) ** 2).sum()) / 2000 == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("sigma_rel", [NARROWEST, 0.05, 0.28])
def test_the_power_profile_at_20_steps_is_a_difference_of_powers(sigma_rel: float) -> None:
    power, i = Power(sigma_rel), np.arange(21) / 20
    np.testing.assert_allclose(counted(power, 20), np.diff(i ** (power.gamma + 1)), rtol=1e-11, atol=1e-300)


@pytest.mark.parametrize("profile", [Power(0.05), Power(0.28), Exponential(0.9, True), Exponential(0.9999, True)])
def test_a_profile_copies_at_step_1_sums_to_1_and_its_logarithm_says_the_same(profile: Profile) -> None:
    assert profile.kept(1) == 0
    assert counted(profile, 50).sum() == pytest.approx(1, rel=1e-14)
    np.testing.assert_allclose(profile.log_kept(50)[1:], np.cumsum([math.log(profile.kept(i)) for i in range(2, 51)]))


def test_the_warm_up_ends_at_the_decay_and_never_passes_it() -> None:
    profile = Exponential(0.99, warmup=True)
    assert [profile.kept(update) for update in (1, 2, 990, 992, 10_000)] == [0, 1 / 11, 989 / 999, 0.99, 0.99]
    assert Exponential(0.99, warmup=False).kept(1) == 0.99


def dense(wanted: Profile, stored: list[Tracked]) -> Fit:
    """``fit`` with a row for every step."""
    last = max(step for _, step in stored)
    columns = np.stack([np.pad(counted(kind, step), (0, last - step)) for kind, step in stored], axis=1)
    target = counted(wanted, last)
    others = np.linalg.lstsq(columns[:, :-1] - columns[:, -1:], target - columns[:, -1], rcond=None)[0]
    coefficients = np.append(others, 1 - others.sum())
    return Fit(coefficients, float(np.linalg.norm(columns @ coefficients - target) / np.linalg.norm(target)))


@pytest.mark.parametrize("wanted", [Power(0.13), Power(0.03), Exponential(0.9, warmup=True)])
@pytest.mark.parametrize("steps", [(1, 2, 3), (7, 30), (10, 20, 30, 45)])
def test_the_fit_is_that_of_a_row_for_each_of_45_steps(wanted: Profile, steps: tuple[int, ...]) -> None:
    stored = [Tracked(Power(width), step) for step in steps for width in (0.05, 0.1)]
    found, expected = fit(wanted, stored), dense(wanted, stored)
    np.testing.assert_allclose(found.coefficients, expected.coefficients, rtol=1e-8, atol=1e-10)
    assert found.error == pytest.approx(expected.error, rel=1e-8)
    assert found.coefficients.sum() == pytest.approx(1, abs=1e-13)


def test_a_profile_that_is_stored_is_taken_alone() -> None:
    stored = [Tracked(Power(width), step) for step in (10, 20) for width in (0.05, 0.1)]
    found = fit(Power(0.05), stored)
    np.testing.assert_allclose(found.coefficients, [0, 0, 1, 0], atol=1e-12)
    assert found.error < 1e-12
    assert fit(Power(0.05), stored[:1]).coefficients == [1]


def test_at_a_million_steps_the_2_widths_of_the_paper_span_the_others_to_5_digits() -> None:
    stored = [Tracked(Power(width), step) for step in range(10_000, 10**6 + 1, 10_000) for width in (0.05, 0.1)]
    found = fit(Power(0.13), stored)
    assert found.error < 2e-4
    assert np.abs(found.coefficients).sum() < 10  # so that the rounding of the stored is not made large


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({}, "by one number"),
        ({"sigma_rel": 0.1, "decay": 0.9}, "by one number"),
        ({"sigma_rel": 0.3}, r"sigma_rel=0\.3 is out of range"),
        ({"gamma": 1e9}, "out of range"),
    ],
)
def test_one_number_in_range_is_asked_for(asked: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        choose(**{"sigma_rel": None, "gamma": None, "decay": None, **asked})


def test_each_of_3_numbers_chooses_its_profile() -> None:
    assert choose(sigma_rel=0.1, gamma=None, decay=None) == Power(0.1)
    assert choose(sigma_rel=None, gamma=2.0, decay=None) == Power(math.sqrt(3 / 5) / 4)
    assert choose(sigma_rel=None, gamma=None, decay=0.5) == Exponential(0.5, warmup=True)
