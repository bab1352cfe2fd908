"""Laws of indexing from afar: the index of an address is that of the folder behind it, and knows where the tars are."""

import functools
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from pixart.data.storage.index import INDEX_NAME, MAP_NAME, build_index, read_index
from pixart.data.storage.indexing import silent
from pixart.preparation.index_tars import BELOW, Remote, index_tars

REMOTE = Remote(timeout=5.0, retries=0, storage_options={})


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Two tars of 3 samples each, and what is no tar."""
    root = tmp_path / "tars"
    root.mkdir()
    for shard in range(2):
        with tarfile.open(root / f"{shard}.tar", "w") as archive:
            for row in range(3):
                for name, data in {"jpg": b"?", "json": b'{"height": 4, "width": 6, "label": 1}'}.items():
                    info = tarfile.TarInfo(f"{shard}-{row}.{name}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    (root / "0_stats.json").write_text("{}")
    return root


class _Quiet(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        """A file or a list of the files, or the fault that was asked for."""
        if "answer=500" in self.path:
            self.send_error(500)
        elif "answer=drop" not in self.path:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url(tars: Path) -> Iterator[str]:
    """The address of the tars, of a server that lists its folder."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=tars.parent)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/tars"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("kind", ["http", "file"])
def test_the_index_of_an_address_is_that_of_the_folder_behind_it(tars: Path, url: str, tmp_path: Path, kind: str):
    source = url if kind == "http" else f"file://{tars}/"
    found = index_tars(source, tmp_path / "out", workers=1, checksums=True, remote=REMOTE, told=silent)
    assert (found.samples, found.shards, found.used) == (6, 2, {"image": 6})
    there = read_index(tmp_path / "out")
    assert there.root == source.rstrip("/")
    build_index(tars)
    here = read_index(tars)
    assert there.shards == here.shards
    assert there.fingerprint == here.fingerprint
    for name, column in here.columns.items():
        np.testing.assert_array_equal(column, there.columns[name])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [MAP_NAME, INDEX_NAME]


def test_an_index_that_was_moved_is_told_where_the_tars_are(tars: Path, tmp_path: Path):
    build_index(tars, tmp_path / "out")
    tars = tars.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"is missing: bring it back, or run .* out="):
        read_index(tmp_path / "out")
    assert read_index(tars, index=tmp_path / "out").root == str(tars)
    assert read_index("s3://bucket/tars", index=tmp_path / "out").root == "s3://bucket/tars"


def test_wrong_addresses_are_refused_in_one_sentence(tars: Path, url: str, tmp_path: Path):
    def index(source: str, out: Path | None) -> None:
        index_tars(source, out, workers=1, checksums=True, remote=REMOTE, told=silent)

    with pytest.raises(ValueError, match="needs a local folder"):
        index(url, None)
    for source in (f"{url}/nowhere", f"file://{tars}/nowhere"):
        with pytest.raises(ValueError, match="cannot be listed") as error:
            index(source, tmp_path / "out")
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="cannot be read: Protocol not known"):
        index("zx://a/b", tmp_path / "out")
    for answer in ("500", "drop"):
        with pytest.raises(ValueError, match="cannot be listed"):
            index(f"{url}/?answer={answer}", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"lists no \.tar"):
        index(f"file://{tmp_path}/empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tars_one_folder_below_are_in_the_account(tars: Path):
    (tars / "sub").mkdir()
    for name in ("3.tar", "2.tar"):
        (tars / "sub" / name).write_bytes(b"")
    found = index_tars(str(tars), None, workers=4, checksums=True, remote=REMOTE, told=silent)
    assert (found.samples, found.skipped, found.first_skipped) == (6, {BELOW: 2}, {BELOW: "sub/2.tar"})
    assert index_tars(str(tars / ".." / "tars"), None, workers=1, checksums=True, remote=REMOTE, told=silent) == found


def test_a_folder_that_is_listed_as_a_tar_is_refused(tars: Path, tmp_path: Path):
    (tars / "x.tar").mkdir()
    with pytest.raises(ValueError, match=r"x\.tar is no file \(directory\)"):
        index_tars(f"file://{tars}", tmp_path / "out", workers=1, checksums=True, remote=REMOTE, told=silent)
