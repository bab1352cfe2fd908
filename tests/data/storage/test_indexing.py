"""Laws of making an index: the same from any number of processes, killed or not, and never half there."""

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pixart.data.storage.index import INDEX_NAME, MAP_NAME, build_index, digests_of, read_index
from pixart.data.storage.shards import Shards

PLACES = ["a.tar", "b.tar", "c.tar", "d.tar"]


def tar(path: Path, keys: list[str]) -> None:
    """Samples that say they have images of 4 x 6 pixels."""
    with tarfile.open(path, "w") as archive:
        for key in keys:
            for name, data in {f"{key}.jpg": b"?", f"{key}.json": b'{"height": 4, "width": 6, "label": 1}'}.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four tars of 5 samples each."""
    for place, name in enumerate(PLACES):
        tar(tmp_path / name, [f"{place}-{i}" for i in range(5)])
    return tmp_path


def contents(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_two_processes_make_the_bytes_that_one_makes(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
):
    build_index(root)
    monkeypatch.setattr("pixart.data.storage.indexing._BYTES", 10240)
    out = tmp_path_factory.mktemp("out")
    calls: list[tuple[int, int]] = []
    build_index(root, out, workers=2, told=lambda done, of: calls.append((done, of)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    one, two = read_index(root), read_index(out)
    assert one.fingerprint == two.fingerprint
    assert (one.root, two.root) == (str(root), str(root))
    for name, column in one.columns.items():
        np.testing.assert_array_equal(column, two.columns[name])
    assert contents(root) == [*PLACES, MAP_NAME, INDEX_NAME]
    assert contents(out) == [MAP_NAME, INDEX_NAME]


def test_tars_of_less_than_a_quarter_of_a_gibibyte_are_described_without_another_process(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pixart.data.storage.indexing.ProcessPoolExecutor", None)
    assert build_index(root, workers=4).rows == 20


def test_of_two_that_index_one_folder_the_second_is_told(root: Path):
    second: list[str] = []

    def told(done: int, of: int) -> None:
        if done < of and not second:
            with pytest.raises(ValueError, match="another process indexes this folder") as error:
                build_index(root)
            second.append(str(error.value))

    assert build_index(root, told=told).rows == 20
    assert len(second) == 1
    assert build_index(root).rows == 20


def _linked_to_nothing(path: Path) -> None:
    path.symlink_to("nowhere")


def _linked_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, _linked_to_nothing, _linked_to_itself])
def test_what_is_no_file_is_refused_by_its_name_when_indexed_and_when_opened(root: Path, make: Callable[[Path], None]):
    (root / "real").mkdir()
    (root / "a.tar").rename(root / "real" / "a")
    (root / "a.tar").symlink_to("real/a")
    assert build_index(root).rows == 20
    make(root / "x.tar")
    for opened in (build_index, read_index):
        with pytest.raises(ValueError, match=r"x\.tar is (a folder and|a pipe and)? ?no file"):
            opened(root)
    (root / "x.tar").rmdir() if (root / "x.tar").is_dir() else (root / "x.tar").unlink()
    (root / "b.tar").unlink()
    make(root / "b.tar")
    with pytest.raises(ValueError, match=r"b\.tar is .*no file"):
        read_index(root)


def test_a_pipe_in_place_of_an_opened_tar_is_not_waited_for(root: Path):
    shards = Shards(root) if build_index(root) else None
    (root / "b.tar").unlink()
    os.mkfifo(root / "b.tar")
    with pytest.raises(ValueError, match=r"b\.tar has 0 bytes where the index expects"):
        shards.read(5)


def test_a_folder_whose_tars_lie_below_is_told_where_they_are(root: Path):
    (root / "sub").mkdir()
    for name in PLACES:
        (root / name).rename(root / "sub" / name)
    with pytest.raises(ValueError, match=r"no \.tar file itself, but 4 in folders below, such as sub/a\.tar"):
        build_index(root)


def test_where_nothing_can_be_used_each_reason_is_counted_with_its_first_sample(tmp_path: Path):
    for name in ("a", "b"):
        tar(tmp_path / f"{name}.tar", [".x"])
        with tarfile.open(tmp_path / f"{name}.tar", "a") as archive:
            archive.addfile(tarfile.TarInfo("lone.txt"))
    with pytest.raises(ValueError, match="none of the 4 samples") as error:
        build_index(tmp_path)
    sentence = "in its tars can be used, 2 x its name begins with a dot (as a.tar: ), 2 x no image (as a.tar: lone)"
    assert str(error.value).endswith(sentence)


def test_rows_follow_the_names_of_the_tars_in_pieces_of_any_size(root: Path, monkeypatch: pytest.MonkeyPatch):
    build_index(root)
    expected = read_index(root)
    assert expected.keys.to_pylist() == [f"{place}-{i}" for place in range(4) for i in range(5)]
    for rows in (1, 7, 10):
        monkeypatch.setattr("pixart.data.storage.index_merge._ROWS", rows)
        build_index(root)
        index = read_index(root)
        assert index.fingerprint == expected.fingerprint
        assert index.keys.to_pylist() == expected.keys.to_pylist()
        assert index.columns["shard"].tolist() == np.repeat(range(4), 5).tolist()


def test_a_killed_run_goes_on_with_the_tars_that_it_had_not_described(root: Path, monkeypatch: pytest.MonkeyPatch):
    from pixart.data.storage import index_table

    described: list[str] = []
    describe_tar = index_table.describe_tar

    def describe(path: Path, *, checksums: bool) -> object:
        if path.name == "c.tar" and "c.tar" not in described:
            described.append("c.tar")
            raise KeyboardInterrupt
        described.append(path.name)
        return describe_tar(path, checksums=checksums)

    monkeypatch.setattr(index_table, "describe_tar", describe)
    with pytest.raises(KeyboardInterrupt):
        build_index(root)
    assert not (root / INDEX_NAME).exists()
    tar(root / "a.tar", ["new"])  # another since
    (root / ".index" / "b.tar.parquet").write_bytes(b"PAR1")  # damaged
    build_index(root)
    assert described == ["a.tar", "b.tar", "c.tar", "a.tar", "b.tar", "c.tar", "d.tar"]
    tar(root / "d.tar", ["0-0"])
    with monkeypatch.context() as broken:
        broken.setattr("pixart.data.storage.indexing.merge", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build_index(root)
    described.clear()
    build_index(root)
    assert described == []
    assert read_index(root).keys.to_pylist()[:2] == ["new", "1-0"]
    assert len(read_index(root).keys) == 12


def test_a_truncated_tar_stops_the_run_leaves_the_old_index_and_costs_only_itself(root: Path):
    build_index(root)
    before = read_index(root).fingerprint
    whole = (root / "b.tar").read_bytes()
    (root / "b.tar").write_bytes(whole[:1500])
    with pytest.raises(ValueError, match=r"b\.tar is truncated or no tar"):
        build_index(root, workers=2)
    assert (root / ".index" / "a.tar.parquet").exists()
    (root / "b.tar").write_bytes(whole)
    assert read_index(root).fingerprint == before
    build_index(root)
    assert read_index(root).fingerprint == before


def test_one_key_in_two_of_four_tars_leads_the_second_by_its_tar_and_leaves_every_other_as_it_is(root: Path):
    tar(root / "d.tar", ["0-0", "e"])
    build_index(root)
    index = read_index(root)
    keys = [f"{place}-{i}" for place in range(3) for i in range(5)]
    assert index.keys.to_pylist() == [*keys, "d/0-0", "e"]
    assert index.digests.tolist() == digests_of(index.keys.to_pylist()).tolist()


def test_a_key_that_another_one_has_as_it_is_led_twice_and_all_keys_are_one_of_a_kind(root: Path):
    tar(root / "b.tar", ["0-0", "x", "b/0-0"])
    tar(root / "c.tar", ["x", "b/x"])
    tar(root / "d.tar", ["d/d/0-0", "0-0", "d/0-0"])
    build_index(root)
    index = read_index(root)
    keys = [*(f"0-{i}" for i in range(5)), "b/b/0-0", "x", "b/0-0", "c/x", "b/x", "d/d/0-0", "d/d/d/0-0", "d/0-0"]
    assert index.keys.to_pylist() == keys
    assert index.digests.tolist() == digests_of(keys).tolist()


def test_skipped_samples_are_recorded_until_there_are_none(root: Path):
    tar(root / "a.tar", ["0", "1"])
    with tarfile.open(root / "a.tar", "a") as archive:
        archive.addfile(tarfile.TarInfo("lone.txt"))
    assert build_index(root).skipped == {"no image": 1}
    assert (root / "index.skipped.tsv").read_text() == "no image\t" + json.dumps("a.tar: lone") + "\n"
    tar(root / "a.tar", ["0", "1"])
    assert build_index(root).skipped == {}
    assert not (root / "index.skipped.tsv").exists()
