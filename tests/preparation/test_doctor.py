"""Laws of the verdict: what would stop training is a sentence, what would not is a remark, and all of it is shown."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pixart.data.buckets import Bucket
from pixart.preparation.doctor import (
    Examination,
    Planned,
    PlannedBucket,
    PlannedPart,
    Quarantined,
    at_least,
    percent,
)
from pixart.preparation.doctor_page import write_page
from pixart.preparation.doctor_samples import Captions, Labels, Read
from pixart.preparation.doctor_sizes import CUT_EDGES, FACTOR_EDGES, BucketSizes, Sizes, SmallBucket
from pixart.preparation.doctor_tables import plots, tables

SQUARE, TALL = Bucket(64, 64), Bucket(96, 48)


def read(bad: int = 0, samples: int = 256, captions: dict[str, tuple[str, ...]] | None = None) -> Read:
    return Read(samples, 4, {f"key {i}": "checksum" for i in range(bad)}, (), captions or {"a": ("b",)}, 300.0)


def planned(visits: float = 5.0, parts: int = 1, samples: int = 1000) -> Planned:
    names = [PlannedPart(f"set {i}", samples, 1 / parts, 1 / parts, 20.0, visits * 11**i) for i in range(parts)]
    bucket = PlannedBucket(SQUARE, samples, 3, 50, samples / 50, 100.0)
    return Planned(100, samples, visits * samples, 20.0, (bucket,), tuple(names))


def sizes(cut: float = 0.0, enlarged: float = 0.0, small: tuple[SmallBucket, ...] = ()) -> Sizes:
    bars = (1.0, *[0.0] * (len(CUT_EDGES) - 2)), (1.0, *[0.0] * (len(FACTOR_EDGES) - 2))
    return Sizes((BucketSizes(SQUARE, 1000, cut, 0.5, enlarged, 2.0),), small, 0, cut, enlarged, *bars)


def captions(truncated: float = 0.0, unknown: float = 0.0, emptied: float = 0.0) -> Captions:
    return Captions(256, 120, truncated, truncated / 2, 60.0, 200, emptied, unknown, (0, 60, 120, 200), (0.5, 0.3, 0.2))


def found(**looks: object) -> Examination:
    return Examination({"data": "/data/<hq>"}, max_bad_share=0.001)._replace(**looks)


def test_nothing_wrong_is_0_problems_and_0_remarks() -> None:
    well = found(plan=planned(), sizes=sizes(), read=read(), captions=captions(), labels=Labels(5, 0, 0, 0, 9, 9))
    assert (well.all_problems, well.remarks) == ([], [])
    assert well.as_dict()["would_train"] is True


@pytest.mark.parametrize(("bad", "stops"), [(0, False), (1, False), (2, True), (20, True)])
def test_2_bad_samples_of_256_prove_more_than_a_thousandth_and_1_does_not(bad: int, stops: bool) -> None:
    some = found(plan=planned(), read=read(bad=bad))
    assert bool(some.all_problems) == stops
    assert len(some.remarks) == (bad == 1)
    assert all(f"{bad} of 256 samples are bad, the first is key 0 (checksum)" in s for s in some.all_problems)


def test_a_bound_is_below_the_share_and_reaches_it_where_all_1000_were_looked_at() -> None:
    assert at_least(0, 256, 1000) == 0
    assert 0 < at_least(1, 256, 1000) < 1 / 256
    assert at_least(5, 1000, 1000) == 0.005
    assert at_least(10, 10, 1000) == pytest.approx(0.722, abs=1e-3)  # Wilson's, by hand


def test_3_absent_classes_are_1_remark() -> None:
    wrong = found(labels=Labels(classes=5, missing=1, outside=2, absent=3, fewest=0, most=9))
    assert wrong.remarks == ["3 of the 5 classes have no sample"]


@pytest.mark.parametrize(
    ("look", "words"),
    [
        ({"plan": planned(visits=0.25)}, "75.0 % stay unseen in 100 steps, a pass takes 20"),
        ({"plan": planned(parts=2)}, "of set 1 are seen 55.0 times each"),
        ({"sizes": sizes(cut=0.3)}, "30.0 % of the pixels are cropped away"),
        ({"sizes": sizes(enlarged=0.3)}, "30.0 % of the images are smaller than their bucket"),
        ({"sizes": sizes(small=(SmallBucket(TALL, 3, 50, "goes to 64x64"),))}, "than their batch: 1 (96x48)"),
        ({"captions": captions(truncated=0.2)}, "20.0 % of the captions are longer than text_encoder.max_tokens=120"),
        ({"captions": captions(unknown=0.2)}, "does not know 20.0 %"),
        ({"captions": captions(emptied=0.01)}, "leaves nothing of 1.0 %"),
        ({"quarantine": Quarantined("bad.json", 2, 10, 8)}, "2 of the 10 keys in bad.json are not in the data"),
    ],
)
def test_what_may_not_be_meant_is_1_remark(look: dict[str, object], words: str) -> None:
    (remark,) = found(**look).remarks
    assert words in remark
    assert found(**look).all_problems == []


def full() -> Examination:
    return found(
        problems=("shard <1> is missing",),
        plan=planned(parts=2),
        sizes=sizes(small=(SmallBucket(TALL, 3, 50, "goes to 64x64"),)),
        read=read(bad=30),
        captions=captions(truncated=0.2),
        labels=Labels(5, 1, 2, 3, 0, 9),
        stamps={"text encoder": "0123"},
        quarantine=Quarantined("bad.json", 2, 10, 8),
    )


def test_every_table_has_as_many_cells_as_columns_and_json_holds_all_of_it() -> None:
    made = tables(full())
    assert [table.title.split(",")[0] for table in made] == [
        *("the run", "buckets", "mixture", "what happens to images", "buckets smaller than their batch"),
        *("looked into", "bad samples (the first 10 of 30)", "captions", "labels", "stored features", "quarantine"),
    ]
    for table in made:
        assert all(len(row) == len(table.columns) for row in table.rows), table.title
        assert all(isinstance(cell, str) for row in table.rows for cell in row)
    again = json.loads(json.dumps(full().as_dict()))
    assert again["would_train"] is False
    assert again["problems"] == full().all_problems
    assert again["plan"]["buckets"][0]["bucket"] == {"height": 64, "width": 64}
    assert again["quarantine"]["version"] == 2


class Open(HTMLParser):
    """Which elements are open, and what was seen."""

    VOID = frozenset({"meta", "rect"})

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.seen: list[str] = []
        self.widths: list[float] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in self.VOID:
            self.stack.append(tag)
        if dict(attrs).get("class") in ("bar", "apart"):
            self.widths.append(float(dict(attrs)["width"] or "nan"))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag


def test_the_page_is_1_file_with_4_plots_whose_names_are_escaped(tmp_path: Path) -> None:
    write_page(tmp_path / "new/doctor.html", full())
    html = (tmp_path / "new/doctor.html").read_text()
    parser = Open()
    parser.feed(html)
    assert parser.stack == []
    assert parser.seen.count("svg") == len(plots(full())) == 4
    assert parser.seen.count("table") == len(tables(full()))
    assert len(parser.widths) == sum(len(plot.bars) for plot in plots(full()))
    assert max(parser.widths) == 150
    assert "shard &lt;1&gt; is missing" in html
    assert "/data/&lt;hq&gt;" in html
    assert "src=" not in html
    assert "href=" not in html


def test_an_examination_that_found_nothing_is_a_page_too(tmp_path: Path) -> None:
    write_page(tmp_path / "doctor.html", found(problems=("data.root is missing",)))
    assert "Training would stop" in (tmp_path / "doctor.html").read_text()


def test_small_shares_keep_2_digits() -> None:
    assert [percent(share) for share in (0, 1, 0.123, 0.00012)] == ["0.0 %", "100.0 %", "12.3 %", "0.012 %"]
