"""A record says what was measured, where, with what and how to do it again."""

import json
from pathlib import Path

import pytest

from pixart.benchmark import record as module
from pixart.benchmark.record import Figure, as_markdown, record, write_record
from pixart.benchmark.timing import Spread


@pytest.mark.parametrize(
    ("value", "target", "met"), [(10, ">= 10", True), (9.9, ">= 10", False), (1, "<= 2", True), (3, "<= 2", False)]
)
def test_a_target_is_met_or_missed_and_none_is_neither(value: float, target: str, met: bool):
    assert Figure("data", "a", value, "s", target=target).met is met
    assert Figure("data", "a", value, "s").met is None


def test_a_record_holds_figures_machine_versions_command_and_settings(tmp_path: Path):
    figures = [Figure.spread("data", "rate", Spread(12.34, 11.0, 13.0), "x", ">= 10"), Figure("data", "b", 1234.5, "s")]
    values = record(figures, {"rounds": 3})
    write_record(tmp_path / "new" / "a.json", values)
    read = json.loads((tmp_path / "new" / "a.json").read_text())
    assert read == values
    assert read["settings"] == {"rounds": 3}
    assert read["figures"][0]["met"] is True
    assert read["machine"]["cores"] >= 1
    assert read["machine"]["threads"] >= 1
    assert "torch" in read["packages"]
    assert read["command"].startswith("python ")


@pytest.mark.parametrize(
    ("told", "processor"),
    [
        ("model name\t: EPYC\ncpu family\t: 26\nmodel\t\t: 2\n\nmodel name\t: other\n", "EPYC (family 26, model 2)"),
        ("processor : 0\nmodel name : Virt\n", "Virt"),
        ("model name : Virt\ncpu family : 6\n", "Virt"),
    ],
)
def test_a_processor_is_named_with_its_kind_where_the_system_tells_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str, processor: str
):
    (tmp_path / "cpuinfo").write_text(told)
    monkeypatch.setattr(module, "_CPUINFO", tmp_path / "cpuinfo")
    module._processor.cache_clear()
    assert module._processor() == processor
    monkeypatch.setattr(module, "_CPUINFO", tmp_path / "missing")
    module._processor.cache_clear()
    assert module._processor()
    module._processor.cache_clear()


def test_the_table_has_a_row_for_each_figure_with_quartiles_and_verdict():
    figures = [Figure.spread("data", "rate", Spread(12.34, 11.0, 13.0), "x", ">= 20"), Figure("data", "b", 1234.5, "s")]
    table = as_markdown(record(figures, {}))
    assert "| rate | 12.3 (11 to 13) | x | >= 20: missed |" in table
    assert "| b | 1,234 | s |  |" in table


@pytest.mark.parametrize(("load", "busy"), [(2.9, False), (3.1, True)])
def test_a_table_of_a_busy_machine_says_so_and_one_of_ratios_whose_they_are(load: float, busy: bool):
    values = record([Figure("train_step", "x: ratio_vs_eager", 0.5, "of its time")], {})
    values["machine"] |= {"cores": 2, "load": [load, 0, 0]}
    table = as_markdown(values)
    assert ("verdicts not to be relied on" in table) == busy
    assert "`eager` and `compiled` are diffusers' model" in table
    assert "are diffusers' model" not in as_markdown(record([Figure("data", "x", 0.5, "s")], {}))
