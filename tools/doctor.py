"""Say what training would see, before it starts: ``python tools/doctor.py +stage=3 data.root=… page=doctor.html``."""

import sys
from pathlib import Path
from typing import Any, Self

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pydantic import Field, model_validator
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pixart.config import Config, Positive, Section, parse
from pixart.door import door
from pixart.preparation.doctor import Examination


class DoctorConfig(Section):
    """The keys that ``configs/doctor.yaml`` adds to those of a run."""

    samples: Positive
    shards: Positive
    processes: Positive
    summary: str | None = Field(alias="json")
    page: str | None
    quarantine: str | None
    run: str | None

    @model_validator(mode="after")
    def _run_for_quarantine(self) -> Self:
        if self.run is not None and self.quarantine is None:
            raise ValueError("run gives bad samples to a quarantine: set quarantine=, the file that takes them")
        return self


OWN = tuple(field.alias or name for name, field in DoctorConfig.model_fields.items())


def run(values: dict[str, Any]) -> None:
    """Examine, show and write what was found; the exit code is 1 where training would stop."""
    asked = parse({key: values.pop(key) for key in OWN}, DoctorConfig)
    config = parse(values, Config)
    from pixart.build.examining import Extent, examine
    from pixart.preparation.doctor_page import write_page
    from pixart.preparation.doctor_places import check_places, write_json
    from pixart.preparation.doctor_quarantine import met_by, put_away

    check_places({"json": asked.summary, "page": asked.page, "quarantine": asked.quarantine})
    bad = {} if asked.run is None else met_by(Path(asked.run))
    found = examine(config, Extent(asked.samples, asked.shards, asked.processes))
    show(found)
    if asked.summary is not None:
        write_json(Path(asked.summary), found)
    if asked.page is not None:
        write_page(Path(asked.page), found)
    if asked.quarantine is not None:
        print(put_away(Path(asked.quarantine), found.bad | bad))
    if found.all_problems:
        sys.exit(1)


def show(found: Examination) -> None:
    """Print the tables, then the verdict."""
    from pixart.preparation.doctor_tables import tables

    console = Console(highlight=False)
    for table in tables(found):
        shown = Table(title=escape(table.title), title_justify="left", box=SIMPLE, show_header=any(table.columns))
        for place, name in enumerate(table.columns):
            words = place in table.words
            shown.add_column(escape(name), justify="left" if words else "right", no_wrap=not words)
        for row in table.rows:
            shown.add_row(*map(escape, row))
        console.print(shown)
    for remark in found.remarks:
        console.print(f"note: {remark}", markup=False, soft_wrap=True)
    for problem in found.all_problems:
        console.print(f"stop: {problem}", markup=False, soft_wrap=True)
    console.print(f"training would {'stop' if found.all_problems else 'run'}", soft_wrap=True)


if __name__ == "__main__":
    door("doctor", run)()
