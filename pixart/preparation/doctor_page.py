"""An examination as one page that needs no other file."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pixart.aside import written_aside
from pixart.preparation.doctor import Examination
from pixart.preparation.doctor_tables import plots, tables


def write_page(path: Path, found: Examination) -> None:
    """Write ``found`` as HTML with its plots drawn inside; every text of it is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    html = environment.get_template("doctor.html").render(
        subject=found.subject,
        problems=found.all_problems,
        remarks=found.remarks,
        tables=tables(found),
        plots=plots(found),
    )
    with written_aside(path) as file:
        file.write_text(html, encoding="utf-8")
