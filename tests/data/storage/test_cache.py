"""Laws of the cache: one fetch for all, bounded, nobody's shard taken from under him, nothing left by the killed."""

import errno
import hashlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from time import monotonic, sleep

import pytest
from http_server import Server, serving

from pixart.data.storage import fetch, room
from pixart.data.storage.cache import CacheSettings, ShardCache
from pixart.data.storage.index_table import Shard
from pixart.data.storage.room import NoRoom

SIZE = 300_000
FORK = multiprocessing.get_context("fork")


def content(number: int) -> bytes:
    return bytes([number]) * SIZE


SHARDS = [Shard(f"{i}.tar", SIZE, hashlib.sha256(content(i)).hexdigest()) for i in range(5)]


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_SHORTEST_PAUSE", 0.01)
    monkeypatch.setattr(fetch, "_FLUSH", 0.5)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    remote = tmp_path / "remote"
    remote.mkdir()
    for i, shard in enumerate(SHARDS):
        (remote / shard.name).write_bytes(content(i))
    with serving(remote) as server:
        yield server


def cache_of(server: Server, shards: int = 3, timeout: float = 0.3) -> ShardCache:
    """A cache for so many shards and a little more."""
    settings = CacheSettings(server.folder.parent / "cache", shards * SIZE + 1000, 1, 1, 2, timeout, {})
    return ShardCache(server.url, SHARDS, settings)


def read(cache: ShardCache, shard: int) -> None:
    descriptor = cache.open(shard)
    assert os.pread(descriptor, SIZE + 1, 0) == content(shard)
    os.close(descriptor)


def here(server: Server) -> list[str]:
    """The shards in the cache, hidden files with them, but for the lock."""
    names = [path.name for path in (server.folder.parent / "cache" / "shards").iterdir()]
    return sorted(name if name.startswith(".") else name.partition("-")[2] for name in names if name != ".room")


def test_a_shard_is_fetched_once_and_read_from_the_disk_after(server: Server):
    for _ in range(3):
        read(cache_of(server), 1)
    assert server.requests == {"1.tar": 1}
    assert here(server) == ["1.tar"]


def test_the_longest_unused_shard_makes_room(server: Server):
    cache = cache_of(server, shards=3)
    for shard in (0, 1, 2, 0, 3):
        read(cache, shard)
    assert here(server) == ["0.tar", "2.tar", "3.tar"]
    assert server.requests["0.tar"] == 1


def test_a_shard_that_is_open_is_never_taken_away(server: Server):
    cache = cache_of(server, shards=2)
    held = cache.open(0)
    for shard in (1, 2, 3):
        read(cache, shard)
    assert here(server) == ["0.tar", "3.tar"]
    assert os.pread(held, SIZE, 0) == content(0)
    os.close(held)


def test_a_cache_smaller_than_a_shard_is_one_sentence_at_once(server: Server):
    with pytest.raises(ValueError, match=r"data\.cache\.gib=.* is too small: 0\.tar needs 300000 bytes"):
        cache_of(server, shards=0).open(0)
    assert here(server) == []
    assert not server.requests


def test_a_cache_smaller_than_what_is_in_use_is_one_sentence(server: Server):
    cache = cache_of(server, shards=2)
    held = [cache.open(0), cache.open(1)]
    begun = monotonic()
    with pytest.raises(ValueError, match=r"data\.cache\.gib=.* is too small: 2\.tar needs 300000 bytes") as error:
        cache.open(2)
    assert "\n" not in str(error.value)
    proposed = float(str(error.value).split("set it to ")[1].split()[0])
    assert proposed * 2**30 >= 900_000  # what it asks for is enough
    assert monotonic() - begun < 3
    assert here(server) == ["0.tar", "1.tar"]
    for descriptor in held:
        os.close(descriptor)
    read(cache, 2)


def test_room_that_is_in_use_for_a_moment_is_waited_for(server: Server):
    cache = cache_of(server, shards=1, timeout=5.0)
    held = cache.open(0)
    closing = Thread(target=lambda: (sleep(0.3), os.close(held)))
    closing.start()
    read(cache, 1)
    closing.join()
    assert here(server) == ["1.tar"]


def test_fetching_ahead_spares_what_is_wanted_sooner_and_does_not_wait_for_room(server: Server):
    cache = cache_of(server, shards=2, timeout=60.0)
    read(cache, 0)
    read(cache, 1)
    with pytest.raises(NoRoom):
        cache.bring(2, spared=frozenset([cache.path(0), cache.path(1)]), stop=Event())
    assert here(server) == ["0.tar", "1.tar"]
    cache.bring(2, spared=frozenset([cache.path(0)]), stop=Event())
    assert here(server) == ["0.tar", "2.tar"]


@pytest.mark.parametrize("size", [0, SIZE - 1, SIZE + 1])
def test_a_cached_file_of_another_size_is_fetched_again(server: Server, size: int):
    cache = cache_of(server)
    read(cache, 0)
    os.truncate(cache.path(0), size)
    read(cache, 0)
    assert server.requests["0.tar"] == 2


def test_a_shard_that_was_forgotten_is_fetched_again(server: Server):
    cache = cache_of(server)
    held = cache.open(0)
    cache.forget(0)
    assert os.pread(held, SIZE, 0) == content(0)
    os.close(held)
    read(cache, 0)
    assert server.requests["0.tar"] == 2


def test_the_same_name_with_another_content_is_another_shard(server: Server):
    read(cache_of(server), 0)
    (server.folder / "0.tar").write_bytes(content(9))
    newer = [Shard("0.tar", SIZE, hashlib.sha256(content(9)).hexdigest())]
    descriptor = ShardCache(server.url, newer, cache_of(server)._settings).open(0)
    assert os.pread(descriptor, SIZE, 0) == content(9)
    os.close(descriptor)
    cache_of(server).forget(0)
    with pytest.raises(ValueError, match=r"0\.tar is another object than was indexed"):
        cache_of(server).open(0)


@pytest.mark.parametrize("fault", ["500", "stall", "other"])
def test_a_fetch_that_fails_leaves_nothing_and_may_succeed_later(server: Server, fault: str):
    server.faults["0.tar"] = deque([fault] * 3)
    with pytest.raises(ValueError, match=r"0\.tar"):
        cache_of(server).open(0)
    assert here(server) == []
    server.faults.clear()
    read(cache_of(server), 0)


# Several processes.


def _read_all(server: Server, shards: int, order: list[int]) -> None:
    for shard in order:
        read(cache_of(server, shards, timeout=10.0), shard)


def run(*jobs: multiprocessing.Process) -> list[int | None]:
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(30)
    alive = [job for job in jobs if job.is_alive()]
    for job in alive:
        job.kill()
    assert not alive
    return [job.exitcode for job in jobs]


def test_three_processes_filling_one_cache_fetch_each_shard_once(server: Server):
    orders = [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 2, 0, 4, 1]]
    for i in range(5):
        server.faults[f"{i}.tar"] = deque(["slow"])
    assert run(*[FORK.Process(target=_read_all, args=(server, 5, order)) for order in orders]) == [0, 0, 0]
    assert server.requests == {f"{i}.tar": 1 for i in range(5)}
    assert len(here(server)) == 5


def test_three_processes_in_a_cache_of_one_shard_all_read_everything(server: Server):
    orders = [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 2, 0, 4, 1]]
    assert run(*[FORK.Process(target=_read_all, args=(server, 1, order)) for order in orders]) == [0, 0, 0]
    assert len(here(server)) == 1


def test_a_process_killed_while_it_fetches_leaves_its_shard_to_the_next(server: Server):
    server.faults["0.tar"] = deque(["stall"])
    killed = FORK.Process(target=_read_all, args=(server, 1, [0]))
    killed.start()
    while not server.requests:
        sleep(0.01)
    sleep(0.2)
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    assert [name[-12:] for name in here(server)] == ["0.tar.partial"[-12:]]
    read(cache_of(server, shards=1), 1)  # there is room for it, though the partial file filled the cache
    assert here(server) == ["1.tar"]
    read(cache_of(server, shards=1), 0)


def test_a_process_that_waits_takes_over_from_one_that_is_killed(server: Server):
    server.faults["0.tar"] = deque(["stall"])
    first = FORK.Process(target=_read_all, args=(server, 1, [0]))
    second = FORK.Process(target=_read_all, args=(server, 1, [0]))
    first.start()
    while not server.requests:
        sleep(0.01)
    second.start()
    sleep(0.2)
    first.kill()
    second.join(10)
    assert second.exitcode == 0
    assert server.requests["0.tar"] == 2


def test_a_process_that_was_stopped_while_it_fetches_is_one_sentence_for_the_others(server: Server):
    server.faults["0.tar"] = deque(["stall"])
    stopped = FORK.Process(target=_read_all, args=(server, 1, [0]))
    stopped.start()
    while not server.requests:
        sleep(0.01)
    os.kill(stopped.pid, signal.SIGSTOP)
    try:
        with pytest.raises(ValueError, match=r"0\.tar\.partial does not grow: end the process"):
            cache_of(server, timeout=0.1).open(0)
    finally:
        stopped.kill()
        stopped.join()
    read(cache_of(server), 0)


# A disk that is full.


def test_a_full_disk_makes_room_with_shards_that_nobody_reads(server: Server, monkeypatch: pytest.MonkeyPatch):
    cache = cache_of(server, shards=5)
    read(cache, 0)
    read(cache, 1)
    allocate = os.posix_fallocate

    def full(descriptor: int, start: int, size: int) -> None:
        if len(here(server)) > 2:  # with the partial file: no room for more than one whole
            raise OSError(errno.ENOSPC, "No space left on device")
        allocate(descriptor, start, size)

    monkeypatch.setattr(room.os, "posix_fallocate", full)
    read(cache, 2)
    assert here(server) == ["1.tar", "2.tar"]


def test_a_disk_that_is_full_whatever_is_taken_away_is_one_sentence(server: Server, monkeypatch: pytest.MonkeyPatch):
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(room.os, "posix_fallocate", full)
    with pytest.raises(ValueError, match=r"cannot take in 0\.tar .*No space left.* data\.cache\.folder") as error:
        cache_of(server).open(0)
    assert "\n" not in str(error.value)
    assert here(server) == []


def test_a_disk_that_fills_up_while_it_is_written_makes_room_once_more(server: Server, monkeypatch: pytest.MonkeyPatch):
    def unsupported(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    plain = fetch._attempt
    failures = iter([True, False])

    def attempt(*arguments: object, **options: object) -> object:
        if next(failures):
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(*arguments, **options)

    cache = cache_of(server)
    read(cache, 0)
    monkeypatch.setattr(room.os, "posix_fallocate", unsupported)
    monkeypatch.setattr(fetch, "_attempt", attempt)
    read(cache, 1)
    assert here(server) == ["1.tar"]


def test_a_folder_that_cannot_be_made_is_one_sentence(server: Server):
    (server.folder.parent / "cache").write_text("a file")
    with pytest.raises(ValueError, match=r"cannot take shards in .*data\.cache\.folder"):
        cache_of(server).open(0)
