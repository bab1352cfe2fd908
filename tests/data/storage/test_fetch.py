"""Laws of fetching one object: it comes whole and checked or not at all, faults pass or are one sentence, in time."""

import errno
import hashlib
import io
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from time import monotonic, sleep

import pytest
from http_server import Server, serving

from pixart.data.storage import fetch as fetching
from pixart.data.storage import remote
from pixart.data.storage.fetch import Fetched, fetch, transfer
from pixart.data.storage.remote import Stopped

DATA = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(DATA).hexdigest()
OPTIONS = {"size": len(DATA), "sha256": SHA256, "timeout": 0.3, "retries": 3, "storage_options": {}}


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_SHORTEST_PAUSE", 0.01)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "remote"
    folder.mkdir()
    (folder / "a.tar").write_bytes(DATA)
    with serving(folder) as server:
        yield server


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("fetch ")]


def no_readers_within(seconds: float) -> bool:
    until = monotonic() + seconds
    while readers() and monotonic() < until:
        sleep(0.02)
    return not readers()


def test_an_object_arrives_whole_with_its_size_and_sha256(server: Server, tmp_path: Path):
    to = tmp_path / "new" / "a.tar"
    assert fetch(f"{server.url}/a.tar", to, **OPTIONS) == Fetched(len(DATA), SHA256)
    assert to.read_bytes() == DATA
    assert files(to.parent) == ["a.tar"]
    assert server.requests == {"a.tar": 1}


def test_size_and_sha256_may_be_unknown(server: Server, tmp_path: Path):
    unknown = {**OPTIONS, "size": None, "sha256": None}
    assert fetch(f"{server.url}/a.tar", tmp_path / "a.tar", **unknown) == Fetched(len(DATA), SHA256)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("faults", [["500", "500"], ["503"], ["drop"], ["cut", "drop"], ["stall"], ["mute"]])
def test_what_passes_is_tried_again(server: Server, tmp_path: Path, faults: list[str], known: bool):
    server.faults["a.tar"] = deque(faults)
    options = OPTIONS if known else {**OPTIONS, "size": None, "sha256": None}
    assert fetch(f"{server.url}/a.tar", tmp_path / "a.tar", **options) == Fetched(len(DATA), SHA256)
    assert (tmp_path / "a.tar").read_bytes() == DATA
    assert server.requests["a.tar"] == len(faults) + 1
    assert no_readers_within(2)


@pytest.mark.parametrize("fault", ["short", "other", "longer"])
def test_one_answer_with_other_bytes_than_indexed_is_not_taken(server: Server, tmp_path: Path, fault: str):
    server.faults["a.tar"] = deque([fault])
    fetch(f"{server.url}/a.tar", tmp_path / "a.tar", **OPTIONS)
    assert (tmp_path / "a.tar").read_bytes() == DATA


def test_bytes_that_come_slowly_are_no_stall(server: Server, tmp_path: Path):
    server.faults["a.tar"] = deque(["slow"])  # eight pieces, 0.4 seconds in all
    fetch(f"{server.url}/a.tar", tmp_path / "a.tar", **{**OPTIONS, "timeout": 0.2, "retries": 0})
    assert server.requests["a.tar"] == 1


SENTENCES = {
    "500": r"a\.tar could not be fetched in 4 attempts .*500",
    "drop": r"a\.tar could not be fetched in 4 attempts",
    "cut": r"a\.tar could not be fetched in 4 attempts",
    "stall": r"a\.tar could not be fetched in 4 attempts .*nothing came for 0\.3 seconds",
    "mute": r"a\.tar could not be fetched in 4 attempts .*nothing came for 0\.3 seconds",
    "short": r"a\.tar could not be fetched in 4 attempts .*ended after 524288 of 1048576 bytes",
    "other": r"a\.tar is another object than was indexed",
    "longer": r"a\.tar is another object than was indexed",
}


@pytest.mark.parametrize("fault", SENTENCES)
def test_what_does_not_pass_is_one_sentence_in_bounded_time_and_leaves_nothing(
    server: Server, tmp_path: Path, fault: str
):
    server.always["a.tar"] = fault
    (tmp_path / "cache").mkdir()
    begun = monotonic()
    with pytest.raises(ValueError, match=SENTENCES[fault]) as error:
        fetch(f"{server.url}/a.tar?token=secret", tmp_path / "cache" / "a.tar", **{**OPTIONS, "storage_options": {}})
    assert monotonic() - begun < 4 * (OPTIONS["timeout"] + 0.3) + 1
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)
    assert files(tmp_path / "cache") == []
    assert no_readers_within(2)


def test_an_object_that_is_not_there_is_one_sentence_after_one_request(server: Server, tmp_path: Path):
    with pytest.raises(ValueError, match=r"b\.tar is missing: bring it back"):
        fetch(f"{server.url}/b.tar", tmp_path / "b.tar", **OPTIONS)
    assert server.requests["b.tar"] == 1


def test_a_request_that_is_denied_is_one_sentence_after_one_request(server: Server, tmp_path: Path):
    server.always["a.tar"] = "403"
    with pytest.raises(ValueError, match=r"a\.tar may not be read .*storage_options"):
        fetch(f"{server.url}/a.tar", tmp_path / "a.tar", **OPTIONS)
    assert server.requests["a.tar"] == 1


def test_nobody_there_is_one_sentence(server: Server, tmp_path: Path):
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(ValueError, match="could not be fetched in 4 attempts"):
        fetch(f"{url}/a.tar", tmp_path / "a.tar", **OPTIONS)


def test_a_protocol_that_nobody_knows_is_one_sentence(tmp_path: Path):
    with pytest.raises(ValueError, match=r"^nowhere://a/b cannot be read: Protocol not known"):
        fetch("nowhere://a/b", tmp_path / "b", **OPTIONS)


def test_other_protocols_of_fsspec_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import fsspec

    monkeypatch.setattr(remote, "_CHUNK", 100_000)
    fsspec.filesystem("memory").pipe("/bucket/a.tar", DATA)
    assert fetch("memory://bucket/a.tar", tmp_path / "a.tar", **OPTIONS) == Fetched(len(DATA), SHA256)
    (tmp_path / "b.tar").write_bytes(DATA)
    assert fetch(f"file://{tmp_path}/b.tar", tmp_path / "c.tar", **OPTIONS) == Fetched(len(DATA), SHA256)


def test_an_object_store_is_read_in_ranges_and_what_passes_is_tried_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(remote, "_CHUNK", 400_000)
    endpoint = {"anon": True, "client_kwargs": {"endpoint_url": server.url, "region_name": "us-east-1"}}
    options = {**OPTIONS, "timeout": 5.0, "storage_options": endpoint}
    server.folder.joinpath("bucket").mkdir()
    server.folder.joinpath("bucket", "a.tar").write_bytes(DATA)
    server.faults["bucket/a.tar"] = deque(["500", None, "cut", None, "other"])
    assert fetch("s3://bucket/a.tar", tmp_path / "a.tar", **options) == Fetched(len(DATA), SHA256)
    assert server.requests["bucket/a.tar"] > 5
    with pytest.raises(ValueError, match=r"^s3://bucket/b\.tar is missing"):
        fetch("s3://bucket/b.tar", tmp_path / "b.tar", **options)


def test_a_library_that_never_returns_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    gate = Event()

    def opened(*_: object) -> object:
        gate.wait()
        raise OSError("late")

    monkeypatch.setattr(remote, "_opened", opened)
    begun = monotonic()
    with pytest.raises(ValueError, match=r"nothing came for 0\.1 seconds"):
        fetch("memory://bucket/a.tar", tmp_path / "a.tar", **{**OPTIONS, "timeout": 0.1})
    assert monotonic() - begun < 2
    gate.set()
    assert no_readers_within(2)


def test_a_transfer_ends_soon_after_it_is_told_to_stop(server: Server, tmp_path: Path):
    server.always["a.tar"] = "stall"
    stop = Event()
    threading.Timer(0.1, stop.set).start()
    begun = monotonic()
    with (tmp_path / "a").open("w+b") as file, pytest.raises(Stopped):
        transfer(f"{server.url}/a.tar", file, **{**OPTIONS, "timeout": 60.0}, stop=stop)
    assert monotonic() - begun < 1


class Full(io.BytesIO):
    """A file on a disk without room."""

    def write(self, *_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_cannot_be_written_is_an_error_of_the_disk(server: Server):
    with pytest.raises(OSError, match="No space left"):
        transfer(f"{server.url}/a.tar", Full(), **OPTIONS, stop=Event())
    assert no_readers_within(2)
