"""Where the doctor writes: looked at before the examination, which may take long, and written whole or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path

from pixart.aside import refuse_no_file, written_aside
from pixart.data.storage.quarantine import read_quarantine
from pixart.preparation.doctor import Examination


def check_places(places: Mapping[str, str | None]) -> None:
    """``ValueError`` in one sentence for the first of ``places`` (key -> path) that cannot take a file."""
    for key, place in places.items():
        if place is None:
            continue
        path = Path(place)
        refuse_no_file(path, key=key)
        if key == "quarantine" and path.exists():
            read_quarantine(path)  # a damaged one would be refused after the examination


def write_json(path: Path, found: Examination) -> None:
    """Write ``found`` as JSON."""
    with written_aside(path) as file:
        file.write_text(json.dumps(found.as_dict(), indent=2) + "\n", encoding="utf-8")
