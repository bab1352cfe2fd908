"""Bad samples are written down, counted over the whole run, and a share of 0.1 % of them stops it."""

import json
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from pixart.batch import Fault
from pixart.training.faults import Faults


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def made(accelerator: Accelerator, folder: Path, max_share: float = 0.001) -> Faults:
    return Faults(accelerator, folder / "bad_samples.jsonl", max_share=max_share)


def fault(k: int, position: int = 0) -> Fault:
    return Fault(k, position, f"key{k}.{position}", "broken")


def lines(faults: Faults) -> list[dict[str, Any]]:
    return [json.loads(line) for line in faults.file.path.read_text().splitlines()]


def test_a_fault_is_a_line_with_its_step_its_place_its_key_and_its_reason(
    accelerator: Accelerator, tmp_path: Path
) -> None:
    faults = made(accelerator, tmp_path)
    faults.note(1, ())
    faults.gather(100)
    assert not faults.file.path.exists()
    faults.note(5, (fault(4, 7),))
    faults.gather(100)
    assert lines(faults) == [{"step": 5, "k": 4, "position": 7, "key": "key4.7", "reason": "broken"}]


def test_the_log_has_the_2_faults_since_the_last_and_the_share_of_all_so_far(
    accelerator: Accelerator, tmp_path: Path
) -> None:
    faults = made(accelerator, tmp_path)
    faults.note(1, (fault(0), fault(0, 3)))
    faults.gather(50)
    assert "2 bad sample(s) were replaced, 2 so far, the first key0.0" in (faults.told() or "")
    assert faults.window(50) == {"bad_samples": 2, "bad_substitutes": 0, "bad_share": 0.04}
    assert faults.told() is None
    faults.note(2, (fault(1),))
    faults.gather(100)
    assert faults.window(100) == {"bad_samples": 1, "bad_substitutes": 0, "bad_share": 0.03}
    assert faults.window(100) == {"bad_samples": 0, "bad_substitutes": 0, "bad_share": 0.03}


def test_a_position_with_3_bad_substitutes_counts_once_and_they_apart(accelerator: Accelerator, tmp_path: Path) -> None:
    faults = made(accelerator, tmp_path, max_share=1.0)
    faults.note(1, tuple(Fault(0, 0, key, "broken") for key in "dcba"))
    faults.gather(4)
    assert faults.window(4) == {"bad_samples": 1, "bad_substitutes": 3, "bad_share": 0.25}
    assert faults.first == ["d"]
    assert [line["key"] for line in lines(faults)] == [*"dcba"]


def test_2_faults_that_stop_the_run_are_written_with_the_note_before_them(
    accelerator: Accelerator, tmp_path: Path
) -> None:
    faults = made(accelerator, tmp_path)
    faults.note(3, (fault(2),))
    faults.write_last(4, (fault(3), fault(3, 1)))
    assert [(line["step"], line["key"]) for line in lines(faults)] == [(3, "key2.0"), (4, "key3.0"), (4, "key3.1")]


def test_10_bad_samples_of_the_first_10000_go_and_the_11th_stops_the_run(
    accelerator: Accelerator, tmp_path: Path
) -> None:
    faults = made(accelerator, tmp_path)
    faults.note(1, tuple(fault(0, position) for position in range(10)))
    faults.gather(64)
    faults.note(2, (fault(1),))
    with pytest.raises(ValueError, match=r"11 of 128 samples were bad \(8\.59%\).*max_bad_share=0\.001.*key0\.0, key0"):
        faults.gather(128)
    assert len(lines(faults)) == 11  # also those that stopped it


def test_of_a_million_samples_1000_may_be_bad_and_with_a_share_of_0_none(
    accelerator: Accelerator, tmp_path: Path
) -> None:
    faults = made(accelerator, tmp_path)
    faults.note(1, tuple(fault(0, position) for position in range(1000)))
    faults.gather(1_000_000)
    strict = made(accelerator, tmp_path, max_share=0.0)
    strict.note(1, (fault(0),))
    with pytest.raises(ValueError, match=r"data\.quarantine"):
        strict.gather(1_000_000)


def test_a_held_out_sample_is_written_down_once_and_never_counted(accelerator: Accelerator, tmp_path: Path) -> None:
    faults = made(accelerator, tmp_path, max_share=0.0)
    for step in (10, 20):
        faults.note(step, (fault(-3)._replace(reason=f"said in step {step}"),))
        faults.gather(100)
    assert [line["step"] for line in lines(faults)] == [10]
    assert faults.window(100) == {"bad_samples": 0, "bad_substitutes": 0, "bad_share": 0.0}


def test_a_resumed_run_counts_on_and_still_names_the_first_keys(accelerator: Accelerator, tmp_path: Path) -> None:
    faults = made(accelerator, tmp_path)
    faults.note(1, tuple(fault(0, position) for position in range(10)))
    faults.gather(64)
    again = made(accelerator, tmp_path)
    again.load_state_dict(faults.state_dict())
    assert again.window(100) == {"bad_samples": 10, "bad_substitutes": 0, "bad_share": 0.1}
    again.note(2, (fault(1),))
    with pytest.raises(ValueError, match=r"11 of 128 .* key0\.0, key0\.1, key0\.2 "):
        again.gather(128)


def test_the_file_forgets_what_a_resumed_run_will_see_again(accelerator: Accelerator, tmp_path: Path) -> None:
    faults = made(accelerator, tmp_path)
    for step in (1, 2, 3):
        faults.note(step, (fault(step - 1),))
    faults.gather(64)
    faults.file.cut_back(2)
    assert [line["step"] for line in lines(faults)] == [1, 2]
