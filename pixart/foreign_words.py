"""Somebody else's words made fit for a sentence or a table of ours: for every floor, from the lowest."""

LONGEST = 120  # letters


def plain(text: str) -> str:
    """Somebody else's words for a sentence or a table: cut where they are over-long, control characters written out."""
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text)} letters)"
    return "".join(x if x.isprintable() else x.encode("unicode_escape").decode() for x in text)


def quoted(text: str) -> str:
    """The same in quotes."""
    return f"'{plain(text)}'"
