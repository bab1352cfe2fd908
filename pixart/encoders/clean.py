"""Caption cleaning as the released PixArt weights were trained with it: the routine of DeepFloyd IF, run twice.

The order of the rules is part of the format: each works on what the ones before it have left.
"""

import html
import re
import warnings
from typing import Literal, get_args
from urllib.parse import unquote_plus

Cleaning = Literal["official", "basic", "none"]
CLEANINGS: tuple[str, ...] = get_args(Cleaning)

Rules = tuple[tuple[re.Pattern[str], str], ...]


def _rules(*pairs: tuple[str, str]) -> Rules:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in pairs)


_FILE_TYPE = r"(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)"
_HOST = r"[a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@)"

# Written with escapes: dashes and quotes of many scripts look alike on the page.
_DASHES = (
    r"[-\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40"
    r"\u301c\u3030\u30a0\ufe31\ufe32\ufe58\ufe63\uff0d]+"
)
_DOUBLE_QUOTES = r"[`\u00b4\u00ab\u00bb\u201c\u201d\u00a8]"
_BAD_PUNCTUATION = r"[#\u00ae\u2022\u00a9\u2122&@\u00b7\u00ba\u00bd\u00be\u00bf\u00a1\u00a7~()\[\]{}|\\/*]+"

_ADDRESSES = _rules(
    ("<person>", "person"),
    (rf"\b(?:https?:(?:/{{1,3}}|[a-zA-Z0-9%])|{_HOST})", ""),
    (rf"\b(?:www:(?:/{{1,3}}|[a-zA-Z0-9%])|{_HOST})", ""),
)
_CHARACTERS = _rules(
    (r"@\w+\b", ""),  # nicknames
    (r"[\u31c0-\u9fff]+", ""),  # from CJK strokes to the end of the unified ideographs
    (_DASHES, "-"),
    (_DOUBLE_QUOTES, '"'),
    (r"[\u2018\u2019]", "'"),
    (r"&quot;?", ""),
    (r"&amp", ""),
    (r"\d{1,3}(?:\.\d{1,3}){3}", " "),  # network addresses
    (r"\d:\d\d\s+$", ""),  # article numbers
    (r"\\n", " "),  # the two characters, not the line feed
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"\S+\.{_FILE_TYPE}", ""),
    (r"[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    (_BAD_PUNCTUATION, " "),
    (r"\s+\.\s+", " "),
)
_MARKETING = _rules(
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),  # jc6640
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),  # jc6640vc
    (r"\b\d+[a-zA-Z]+\d+\b", ""),  # 6640vc231
    (r"(?:worldwide\s+)?(?:free\s+)?shipping", ""),
    (r"(?:free\s)?download(?:\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b{_FILE_TYPE}(?:\simages?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    (r"\b\d+\.?\d*[x\u0445\u00d7]\d+\.?\d*\b", ""),  # 640x480, also with the Cyrillic letter and the sign
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
    (r"^[\"']([\w\W]+)[\"']$", r"\1"),
    (r"^['_,\-:;]", ""),
    (r"['_,\-:+]$", ""),
    (r"^\.\S+$", ""),
)
_HYPHENS = re.compile(r"[-_]")


def _apply(rules: Rules, text: str) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text


def _without_tags(text: str) -> str:
    """The text between the tags; markup that the parser refuses (``<![``) stays as it is, for the later rules."""
    from bs4 import BeautifulSoup
    from bs4.exceptions import ParserRejectedMarkup

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a caption that looks like a file name is no mistake here
        try:
            return str(BeautifulSoup(text, features="html.parser").text)
        except ParserRejectedMarkup:
            return text


def _clean_once(caption: str) -> str:
    import ftfy

    text = _apply(_ADDRESSES, unquote_plus(caption).strip().lower())
    text = _apply(_CHARACTERS, _without_tags(text))
    if len(_HYPHENS.findall(text)) > 3:  # this-is-my-cute-cat
        text = _HYPHENS.sub(" ", text)
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return _apply(_MARKETING, text).strip()


def clean(caption: str, mode: Cleaning) -> str:
    """The caption as the tokenizer shall see it.

    "official" is what the features behind the released weights went through (the routine runs twice); "basic" strips
    and lowers, as diffusers does when it is not asked to clean; "none" leaves the caption as it is, as the later
    training scripts do. Never raises on any text; any other mode is a ``ValueError``.
    """
    caption = caption.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair is no text for any tokenizer
    if mode == "official":
        return _clean_once(_clean_once(caption))
    if mode == "basic":
        return caption.strip().lower()
    if mode == "none":
        return caption
    raise ValueError(f"text_encoder.cleaning: '{mode}' is unknown; choose one of {', '.join(CLEANINGS)}")
