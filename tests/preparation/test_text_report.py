"""Laws of the whole job."""

from pathlib import Path

import pytest

from pixart.preparation.pretrain_text import Size, Training
from pixart.preparation.span_corruption import Corruption
from pixart.preparation.text_report import Measures, Report, pretrain_and_report


def small(out: Path) -> Report:
    return pretrain_and_report(
        out,
        size=Size(dim=16, num_layers=1, num_heads=2, ff_dim=16),
        training=Training(
            steps=2,
            batch_size=4,
            captions=(2,),
            faithful=0.9,
            mixture=(Corruption(0.3, 1.0),),
            lr=1e-2,
            position_lr=1e-1,
            warmup_steps=1,
            clip=1.0,
            seed=0,
        ),
        measures=Measures({"binding": 40, "position": 40}, {"binding": 20, "position": 20}, 5, seed=1),
        num_sentinels=16,
        threads=1,
        progress=lambda *_: None,
    )


def test_the_report_compares_three_columns_and_weights_are_never_overwritten(tmp_path: Path) -> None:
    report = small(tmp_path / "out")
    words, readouts = report.tables.values()
    assert list(words) == ["majority", "random weights", "pre-trained"]
    assert list(readouts) == ["bag of words", "random weights", "pre-trained"]
    for columns in (words, readouts):
        assert all(0 <= share <= 1 for column in columns.values() for share in column.values())
        assert len({tuple(column) for column in columns.values()}) == 1
    assert report.bytes == sum(file.stat().st_size for file in (tmp_path / "out").iterdir())
    assert abs(report.state_mean) < 0.5
    assert 0.5 < report.state_std < 2
    with pytest.raises(ValueError, match=r"^out: .*out holds weights already; give a new folder"):
        small(tmp_path / "out")
