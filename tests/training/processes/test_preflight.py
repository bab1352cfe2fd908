"""What is found wrong before the first step, by ranks that are threads here, and said alike on all of them."""

import resource
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from miniature import Silent, small

from pixart.build.training import run_training
from pixart.training.processes import preflight, room
from pixart.training.processes.preflight import enough_of_machine, everywhere, places, same
from pixart.training.processes.ranks import Ranks
from pixart.training.processes.room import Cadences, Room, check_room, in_words
from pixart.training.processes.shared_disk import share_disk, untouched

SOON = timedelta(seconds=0.3)


class Threads(Ranks):
    """One of several ranks that are threads of this process."""

    def __init__(self, rank: int, shared: list[Any], barrier: threading.Barrier):
        self.rank, self.size = rank, len(shared)
        self._shared, self._barrier = shared, barrier

    def gathered(self, value: Any) -> list[Any]:
        self._shared[self.rank] = value
        self._barrier.wait(timeout=20)
        values = list(self._shared)
        self._barrier.wait(timeout=20)
        return values

    def from_first(self, value: Any) -> Any:
        return self.gathered(value)[0]


def on_ranks(count: int, work: Callable[[Threads], Any]) -> list[Any]:
    """What each rank returns, or the sentence of the ``ValueError`` that it raises."""
    shared, barrier = [None] * count, threading.Barrier(count)

    def one(rank: int) -> Any:
        try:
            return work(Threads(rank, shared, barrier))
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_what_fails_on_2_of_4_ranks_is_said_by_all_4_with_their_names() -> None:
    def work(rank: int) -> int:
        if rank > 1:
            raise OSError("no such disk")
        return rank

    said = on_ranks(4, lambda ranks: everywhere(ranks, lambda: work(ranks.rank)))
    assert said == ["OSError no such disk (on ranks 2-3)"] * 4
    assert on_ranks(4, lambda ranks: everywhere(ranks, lambda: ranks.rank)) == [[0, 1, 2, 3]] * 4


def test_a_disk_shared_by_3_ranks_is_left_as_it_was_and_one_that_is_not_is_named(tmp_path: Path) -> None:
    hosts = ["a", "a", "b"]
    assert on_ranks(3, lambda ranks: share_disk(ranks, tmp_path, hosts, patience=SOON)) == [None] * 3
    assert list(tmp_path.iterdir()) == []

    def apart(ranks: Threads) -> None:
        folder = tmp_path / hosts[ranks.rank]
        folder.mkdir(exist_ok=True)
        share_disk(ranks, folder, hosts, patience=SOON)

    for sentence in on_ranks(3, apart):
        assert "rank 2 on b cannot see what rank 0 on a writes" in sentence
        assert "one folder for all machines: set run_dir=" in sentence
    assert [list((tmp_path / host).iterdir()) for host in "ab"] == [[], []]


def test_a_disk_that_one_of_2_ranks_may_only_read_is_named(tmp_path: Path) -> None:
    def reading(ranks: Threads) -> None:
        folder = tmp_path if ranks.is_first else tmp_path / ".preflight" / "0"  # no folder: nothing can be made in it
        share_disk(ranks, folder, ["a", "b"], patience=SOON)

    first, second = on_ranks(2, reading)
    assert first == second.replace(str(tmp_path / ".preflight" / "0"), str(tmp_path))
    assert "rank 1 on b cannot see" in first


def test_of_5_facts_the_2_that_differ_are_named_with_their_ranks() -> None:
    facts = {"torch": "2.11.0", "commit": "abc", "seed": "1", "steps": "8", "python": "3.11.7"}
    other = facts | {"torch": "2.10.0", "seed": "2"}
    said = on_ranks(3, lambda ranks: same(ranks, other if ranks.rank == 2 else facts, mend="start alike"))
    assert (
        said == ["torch is 2.10.0 on rank 2 and 2.11.0 on rank 0; seed is 2 on rank 2 and 1 on rank 0: start alike"] * 3
    )


def test_2_ranks_on_one_gpu_are_refused_and_2_on_a_cpu_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cpu")
    assert len(on_ranks(2, lambda ranks: places(ranks, device))[0]) == 2
    monkeypatch.setattr(preflight, "_place", lambda _: preflight.Place("a", "H200", "GPU-1", 2**37))
    for sentence in on_ranks(2, lambda ranks: places(ranks, device)):
        assert sentence.startswith("ranks 0-1 share one GPU of a: start as many processes a machine as it has GPUs")


CADENCES = Cadences(checkpoint=100, snapshot=250, keep=2, keep_every=300)


def test_1000_steps_need_3_checkpoints_at_once_and_in_the_end_3_more_and_4_snapshots() -> None:
    whole = Room(first=0, last=1000, checkpoint=10, snapshot=3, there=0, cadences=CADENCES)
    assert whole.least == 3 * 10
    assert whole.whole == 3 * 10 + 3 * 10 + 4 * 3  # 300, 600 and 900 stay for good
    assert Room(500, 1000, 10, 3, there=2, cadences=CADENCES).least == 10  # two are there, and go as others come
    assert Room(1000, 1000, 10, 3, there=2, cadences=CADENCES).whole == 0
    assert Room(0, 5, 10, 3, there=0, cadences=CADENCES).least == 10
    assert Room(0, 1000, 10, 3, there=0, cadences=CADENCES._replace(checkpoint=0)).least == 0


@pytest.mark.parametrize(
    ("free", "said"), [(29, "has 29 B left, and 2 checkpoints"), (71, "the whole run"), (72, None)]
)
def test_a_disk_is_refused_below_30_bytes_and_warned_of_below_72(
    free: int, said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 0, free))
    asked = Room(first=0, last=1000, checkpoint=10, snapshot=3, there=0, cadences=CADENCES)
    told = on_ranks(2, lambda ranks: check_room(ranks, tmp_path, asked))
    sentences = [one if isinstance(one, str) else one[1] for one in told]
    assert isinstance(told[0], str) == (free < 30)
    assert sentences == [None] * 2 if said is None else all(said in sentence for sentence in sentences)


def test_too_few_files_and_too_little_shared_memory_are_said_with_2_mends(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(files: int, memory: int) -> list[Any]:
        return on_ranks(2, lambda ranks: enough_of_machine(ranks, shared_memory=memory, files=files))

    assert asked(8, 1) == [None, None]
    assert "lower data.workers, or give the container more (--shm-size)" in asked(8, 2**60)[0]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    assert asked(300, 1) == ["a process may open 256 files here and needs about 300: say 'ulimit -n 600' first"] * 2


def test_bytes_are_said_in_5_units() -> None:
    assert [in_words(10.0**power) for power in (0, 4, 8, 9, 13)] == ["1 B", "10 KB", "100 MB", "1 GB", "10.0 TB"]


def test_a_folder_is_untouched_whether_it_was_there_or_not_and_2_levels_up(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("kept")

    def touching(folder: Path) -> Callable[[Ranks], None]:
        def work(ranks: Ranks) -> None:
            with untouched(ranks, folder):
                (folder / "plan" / "deep").mkdir(parents=True, exist_ok=True)
                (folder / f"file_{ranks.rank}").write_text("made")

        return work

    on_ranks(2, touching(tmp_path / "there"))
    on_ranks(2, touching(tmp_path / "new" / "deeper"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["there"]
    assert [entry.name for entry in (tmp_path / "there").iterdir()] == ["mine"]


def test_a_full_disk_refuses_a_run_before_its_first_step_and_binds_0_configurations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.disk_usage
    monkeypatch.setattr(
        room.shutil,
        "disk_usage",
        lambda path: real(path)._replace(free=1000) if str(path).startswith(str(tmp_path)) else real(path),
    )
    config = small(1, tmp_path / "run", "preflight=true")
    with pytest.raises(ValueError, match=r"has 1 KB left, and 2 checkpoints and one in the making take .* MB: free"):
        run_training(config, lambda _: Silent())
    assert not (tmp_path / "run" / "config.yaml").exists()
    with pytest.raises(ValueError, match="has 1 KB left"):
        run_training(config.model_copy(update={"preflight": "only"}), lambda _: Silent())
