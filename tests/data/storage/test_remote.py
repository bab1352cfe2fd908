"""Laws of shards at an address: what is read is what a local folder gives, through every fault, or one sentence."""

import io
import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest
from http_server import Server, serving
from PIL import Image

from pixart.data.buckets import Bucket
from pixart.data.dataset import Examples
from pixart.data.loading import loader
from pixart.data.planning.plan import Part, Plan
from pixart.data.source import BadSample
from pixart.data.storage import fetch
from pixart.data.storage.index import build_index
from pixart.data.storage.index_table import Tar
from pixart.data.storage.indexing import index_tars, silent
from pixart.data.storage.shards import CacheSettings, Encoded, Shards, write_shards

ROWS = 24
SHARD = 4


def encoded(row: int) -> Encoded:
    buffer = io.BytesIO()
    noise = np.random.default_rng(row).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(noise).save(buffer, format="PNG")
    return Encoded(f"{row:03d}", "png", buffer.getvalue(), (f"caption {row}",), row % 3, {"height": 8, "width": 8})


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_SHORTEST_PAUSE", 0.01)
    monkeypatch.setattr(fetch, "_FLUSH", 1.0)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """24 samples in six tars, and their index beside them."""
    remote = tmp_path / "remote"
    remote.mkdir()
    write_shards(remote, map(encoded, range(ROWS)), shard_size=SHARD)
    build_index(remote)
    with serving(remote) as server:
        yield server


def settings(server: Server, *, shards: float = 100, timeout: float = 0.5) -> CacheSettings:
    size = (server.folder / "000000.tar").stat().st_size
    return CacheSettings(server.folder.parent / "cache", int(shards * size), 2, 2, 2, timeout, {})


def opened(server: Server, **options: float) -> Shards:
    return Shards(server.url, cache=settings(server, **options))


def check(source: Shards, server: Server, rows: range = range(ROWS)) -> None:
    """That ``source`` reads what the folder of the server holds."""
    local = Shards(server.folder)
    for row in rows:
        here, there = local.read(row), source.read(row)
        np.testing.assert_array_equal(here.image, there.image)
        assert here[2:] == there[2:]


def test_shards_at_an_address_read_as_they_do_in_a_folder_each_fetched_once(server: Server):
    source = opened(server)
    assert source.fingerprint == Shards(server.folder).fingerprint
    check(source, server)
    check(source, server)
    assert server.requests == {"index.parquet": 1, **{f"{i:06d}.tar": 1 for i in range(6)}}


def test_an_index_in_a_folder_may_name_the_address_of_its_tars(server: Server, tmp_path: Path):
    tars = [Tar(path.name, path.stat().st_size, "") for path in sorted(server.folder.glob("*.tar"))]
    index_tars(tars, lambda tar: nullcontext(server.folder / tar.name), tmp_path / "index", root=server.url,
               workers=1, checksums=True, stamps=None, told=silent)  # fmt: skip
    with pytest.raises(ValueError, match=r"http\S+ is no local folder: set data\.cache"):
        Shards(tmp_path / "index")
    check(Shards(tmp_path / "index", cache=settings(server)), server)
    assert server.requests["index.parquet"] == 0


def test_an_address_without_a_cache_or_without_an_index_is_one_sentence(server: Server):
    with pytest.raises(ValueError, match=r"http\S+ is no local folder: set data\.cache"):
        Shards(server.url)
    (server.folder / "index.parquet").unlink()
    with pytest.raises(ValueError, match=r"index\.parquet is missing"):
        opened(server)


def test_an_index_that_was_made_anew_is_seen_at_the_next_opening(server: Server):
    old = opened(server)
    write_shards(server.folder, map(encoded, range(1, ROWS + 1)), shard_size=SHARD)
    build_index(server.folder)
    new = opened(server)
    assert new.fingerprint != old.fingerprint
    check(new, server)
    assert old.key(0) == "000"  # its map is the old one still
    with pytest.raises(ValueError, match=r"000000\.tar is another object than was indexed") as error:
        old.read(0)
    assert not isinstance(error.value, BadSample)


def _open_and_read(server: Server, row: int) -> None:
    check(opened(server, timeout=5.0), server, range(row, row + 1))


def test_an_index_that_3_processes_ask_for_at_once_is_fetched_for_all_though_1_is_killed(server: Server):
    server.faults["index.parquet"] = deque(["stall", "slow"])
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_open_and_read, args=(server, row)) for row in range(3)]
    processes[0].start()
    while not server.requests["index.parquet"]:
        sleep(0.01)
    for process in processes[1:]:
        process.start()
    sleep(0.2)
    processes[0].kill()
    for process in processes:
        process.join(20)
    assert [process.exitcode for process in processes] == [-signal.SIGKILL, 0, 0]
    assert server.requests["index.parquet"] == 2
    assert not list((server.folder.parent / "cache").rglob("*.partial"))


def test_a_folder_written_as_an_address_is_a_folder(server: Server):
    check(Shards(f"file://{server.folder}"), server)


@pytest.mark.parametrize("faults", [["500", "500"], ["drop"], ["cut"], ["stall"], ["short"], ["other"], ["longer"]])
def test_faults_that_pass_change_nothing(server: Server, faults: list[str]):
    for name in ("000001.tar", "000004.tar"):
        server.faults[name] = deque(faults)
    check(opened(server), server)


@pytest.mark.parametrize("fault", ["500", "drop", "cut", "stall", "mute", "short", "other", "longer"])
def test_faults_that_last_are_one_sentence_that_names_the_shard_and_no_bad_sample(server: Server, fault: str):
    source = opened(server)
    server.always["000002.tar"] = fault
    check(source, server, range(8))
    begun = monotonic()
    with pytest.raises(ValueError, match=r"000002\.tar (could not be fetched|is another object)") as error:
        source.read(8)
    assert monotonic() - begun < 4
    assert "\n" not in str(error.value)
    assert not isinstance(error.value, BadSample)
    check(source, server, range(12, ROWS))


def test_bytes_that_rot_in_the_cache_are_fetched_again(server: Server):
    source = opened(server)
    check(source, server)
    for path in (server.folder.parent / "cache" / "shards").glob("*-00000[13].tar"):
        data = bytearray(path.read_bytes())
        data[data.index(b"IDAT") + 9] ^= 1
        path.write_bytes(data)
    check(source, server)
    assert server.requests["000001.tar"] == server.requests["000003.tar"] == 2


def test_a_sample_that_is_bad_where_it_comes_from_is_bad_and_fetched_2_times_at_most_by_a_process(tmp_path: Path):
    remote = tmp_path / "remote"
    remote.mkdir()
    write_shards(remote, map(encoded, range(SHARD)), shard_size=SHARD)
    path = remote / "000000.tar"
    data = path.read_bytes()
    build_index(remote)
    # An index whose checksums of shards and of samples disagree: nothing can be mended by fetching.
    with serving(remote) as server:
        source = opened(server)
        source._files._shards = (source._files._shards[0]._replace(sha256=None),)
        place = data.index(b"IDAT", data.index(b"001.png"))
        path.write_bytes(data[:place] + b"~" + data[place + 1 :])
        for _ in range(3):
            with pytest.raises(BadSample, match="001: its bytes are not those that were indexed"):
                source.read(1)
        assert server.requests["000000.tar"] == 2


# Through the loader.


def examples_of(source: Shards) -> Examples:
    part = Part(source.heights, source.widths, None, source.shards, None)
    plan = Plan([part], buckets=[Bucket(8, 8)], global_batch=6, seed=0, small_buckets="refuse", distance="log",
                streams=2, window=1)  # fmt: skip
    return Examples(source, plan, seed=0, latent_channels=1, latent_stride=1, posterior_noise=False, tokenize=None,
                    max_tokens=0, caption_choice="first", caption_drop=0.0, null_label=3, label_drop=0.0,
                    size_conditioning=False, aspect_ratio="exact", flip=False, stratified=True)  # fmt: skip


def keys(source: Shards, steps: int = 12, workers: int = 0, ahead: int = 0) -> list[tuple[str, ...]]:
    reading = loader(examples_of(source), range(steps), micro_batch=3, world_size=1, rank=0, num_workers=workers,
                     pin_memory=False, ahead=ahead)  # fmt: skip
    return [batch.keys for step in reading for batch in step.batches]


def no_threads_within(seconds: float) -> bool:
    until = monotonic() + seconds
    while monotonic() < until:
        if not [thread for thread in threading.enumerate() if thread.name.startswith(("fetch ", "look "))]:
            return True
        sleep(0.02)
    return False


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_over_a_faulty_address_with_a_small_cache_reads_the_batches_of_a_folder(server: Server, workers: int):
    for i in range(6):
        server.faults[f"{i:06d}.tar"] = deque([["500"], ["cut"], ["stall"], ["other"], [None], ["drop"]][i])
    assert keys(opened(server, shards=3), workers=workers, ahead=2) == keys(Shards(server.folder))
    assert no_threads_within(2)


def test_what_is_fetched_ahead_is_not_waited_for_when_it_is_read(server: Server):
    source = opened(server)
    assert source.far
    source.fetch_ahead(np.arange(ROWS))
    until = monotonic() + 5
    while sum(server.requests[f"{i:06d}.tar"] for i in range(6)) < 6 and monotonic() < until:
        sleep(0.01)
    assert no_threads_within(2)
    requests = server.requests.copy()
    check(source, server)
    assert server.requests == requests


def test_fetching_ahead_ends_within_a_second_while_the_server_stalls(server: Server):
    source = opened(server, timeout=60.0)
    for i in range(6):
        server.always[f"{i:06d}.tar"] = "stall"
    source.fetch_ahead(np.arange(ROWS))
    while server.requests.total() < 3:  # with the index
        sleep(0.01)
    begun = monotonic()
    source.fetch_ahead(np.arange(0))
    assert monotonic() - begun < 1
    assert not [thread for thread in threading.enumerate() if thread.name == "fetch ahead"]
    assert not list((server.folder.parent / "cache" / "shards").glob(".*.partial"))
    server.gate.set()
    assert no_threads_within(2)


def test_a_shard_that_cannot_be_fetched_ahead_is_asked_for_once_and_told_of_when_it_is_read(server: Server):
    source = opened(server)
    (server.folder / "000001.tar").unlink()
    for _ in range(3):
        source.fetch_ahead(np.arange(ROWS))
        assert no_threads_within(3)
    assert server.requests["000001.tar"] == 1
    assert source.read(0).key == "000"
    with pytest.raises(ValueError, match=r"000001\.tar is missing"):
        source.read(4)


def test_a_pickled_source_does_not_fetch_the_index_again(server: Server):
    source = opened(server)
    check(pickle.loads(pickle.dumps(source)), server)
    assert server.requests["index.parquet"] == 1


def test_a_worker_killed_while_it_fetches_ends_the_loader_with_an_error_and_the_next_run_is_whole(server: Server):
    expected = keys(Shards(server.folder))
    source = opened(server, timeout=60.0)
    for i in range(6):
        server.faults[f"{i:06d}.tar"] = deque(["stall"] * 2)
    before = set(multiprocessing.active_children())
    reading = loader(examples_of(source), range(3), micro_batch=3, world_size=1, rank=0, num_workers=2,
                     pin_memory=False)  # fmt: skip
    step = next(reading)
    while server.requests.total() < 3:
        sleep(0.01)
    for worker in set(multiprocessing.active_children()) - before:
        os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"killed|exited unexpectedly"):
        next(step.batches)
    reading.close()
    server.gate.set()
    server.faults.clear()
    assert keys(opened(server), workers=2, ahead=2) == expected
    assert not list((server.folder.parent / "cache" / "shards").glob(".*.partial"))
