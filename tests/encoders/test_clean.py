"""Laws of caption cleaning."""

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixart.encoders.clean import CLEANINGS, Cleaning, clean

# What the routine behind the released weights gives for these, run twice.
OFFICIAL = [
    ("A photo-of_a-cute_cat, 640x480 JPG image", "a photo of a cute cat"),
    ("\u201cHello\u201d   world...", '"hello" world'),
    ("https://example.com/pic Red  circle &amp; blue square", "red circle blue square"),
    ("caf\u00c3\u00a9 \u2014 100% free download", "cafã - 100%"),
    ("Portrait of <person>, @nick #12 page 3", "portrait of person"),
    ('"quoted caption"', "quoted caption"),
    ("a<br>b and <b>bold</b>", "ab and bold"),
    ("well-known, once hyphened", "well-known, once hyphened"),
    ("a red circle left of a blue square.", "a red circle left of a blue square."),
    ("", ""),
]


@pytest.mark.parametrize(("caption", "cleaned"), OFFICIAL)
def test_official_cleaning_gives_the_text_the_released_weights_were_trained_with(caption: str, cleaned: str) -> None:
    assert clean(caption, "official") == cleaned


def test_basic_cleaning_strips_and_lowers_and_none_changes_nothing() -> None:
    caption = "  A Red Circle, 640x480 "
    assert clean(caption, "basic") == "a red circle, 640x480"
    assert clean(caption, "none") == caption


def test_an_unknown_mode_is_one_sentence_that_names_the_three_modes() -> None:
    with pytest.raises(ValueError, match=r"^text_encoder\.cleaning: 'twice' is unknown; .*official, basic, none$"):
        clean("a circle", "twice")  # type: ignore[arg-type]
    assert get_args(Cleaning) == CLEANINGS


FRAGMENTS = [
    "red circle",
    "<![",
    "<b>",
    "&amp;",
    "&",
    '"',
    "'",
    "\\n",
    "a-b_c-d-e",
    "foo.png",
    "www.a.com",
    "@x",
    "%zz",
]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=8), max_size=6).map("".join), st.sampled_from(CLEANINGS))
def test_cleaning_never_raises_and_never_leaves_an_unencodable_character(caption: str, mode: Cleaning) -> None:
    clean(caption, mode).encode("utf-8")


@pytest.mark.parametrize("caption", ["a \ud800 b", "<![ red circle", "\x00"])
def test_half_characters_and_broken_markup_pass(caption: str) -> None:
    clean(caption, "official").encode("utf-8")


def test_a_cleaned_plain_sentence_is_left_alone_by_a_second_cleaning() -> None:
    for _, cleaned in OFFICIAL[:8]:
        assert clean(cleaned, "official") == cleaned
