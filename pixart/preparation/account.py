"""What became of every file or line of a source: counted for a table, named in two lists."""

import json
from collections import Counter
from typing import NamedTuple, TextIO

from pixart.foreign_words import plain
from pixart.preparation.sources import Reason

IMAGE_USED = "image"
CAPTION_USED = "caption beside an image"
CAPTION_IDLE = "caption of an image that is not used"


class Prepared(NamedTuple):
    """What became of the source."""

    samples: int
    shards: int
    used: dict[str, int]  # files or lines, by what they were used as
    skipped: dict[str, int]  # files or lines, by the reason
    first_skipped: dict[str, str]  # the first name of each reason; all are in skipped.tsv
    converted: dict[str, int]  # files or lines that are used too, but not as they are, by what is done to them
    first_converted: dict[str, str]  # the first name of each; all are in converted.tsv


class Account:
    """Counts what each file or line came to, and writes the name of each that is skipped or converted."""

    def __init__(self, skipped: TextIO, converted: TextIO):
        self._lists = skipped, converted
        self.used = Counter[str]()
        self.skipped = Counter[str]()
        self.converted = Counter[str]()
        self.first_skipped: dict[str, str] = {}
        self.first_converted: dict[str, str] = {}
        self._captions: set[str] = set()  # used with an image, not met themselves yet

    def use(self, name: str, caption: str | None, changes: tuple[str, ...]) -> None:
        """An image is used with the file of its caption, and not as it is where there are changes."""
        if caption is not None:
            self._captions.add(caption)
        if not changes:
            self.used[IMAGE_USED] += 1
            return
        how = ", ".join(changes)
        self.converted[how] += 1
        self.first_converted.setdefault(how, name)
        _write(self._lists[1], how, name)

    def caption(self, name: str) -> None:
        """The file of a caption, met after all images that it may belong to."""
        if name in self._captions:
            self._captions.remove(name)
            self.used[CAPTION_USED] += 1
        else:
            self.skip(Reason(name, CAPTION_IDLE))

    def skip(self, reason: Reason) -> None:
        """A file or line is not used."""
        self.skipped[reason.why] += 1
        self.first_skipped.setdefault(reason.why, reason.name)
        _write(self._lists[0], reason.why, reason.name)

    def sentence(self) -> str:
        """What was skipped, in words."""
        counts = [f"{n} x {why} (as {plain(self.first_skipped[why])})" for why, n in self.skipped.most_common()]
        return ", ".join(counts) or "it is empty"

    def closed(self, samples: int, shards: int) -> Prepared:
        """The account as it stands."""
        return Prepared(
            samples,
            shards,
            dict(self.used),
            dict(self.skipped),
            self.first_skipped,
            dict(self.converted),
            self.first_converted,
        )


def _write(record: TextIO, what: str, name: str) -> None:
    record.write(f"{what}\t{json.dumps(name)}\n")  # a name may hold tabs, newlines and halves of characters
