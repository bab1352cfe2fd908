"""What may be written over, and what is left of a writer that died."""

import os
import platform
import stat
import subprocess
from pathlib import Path

import pytest

from pixart.aside import folder_aside, refuse_no_file, refuse_taken, refuse_unwritable, written_aside


def put(path: Path, kind: str) -> None:
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    else:
        try:
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))  # the numbers of /dev/null, elsewhere
        except PermissionError:
            pytest.skip("only root makes devices")


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a device"])
def test_1_pipe_1_folder_and_1_device_are_refused_as_files_before_anything_is_written(tmp_path, kind):
    path = tmp_path / "out"
    put(path, kind)
    before = path.stat()
    with pytest.raises(ValueError, match=f"out is {kind} and no file"), written_aside(path) as aside:
        aside.write_text("written")
    assert (path.stat().st_ino, path.stat().st_mode) == (before.st_ino, before.st_mode)
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_a_file_is_replaced_whole_and_a_folder_is_new_or_empty(tmp_path):
    for text in ("first", "second"):
        with written_aside(tmp_path / "a") as aside:
            aside.write_text(text)
    assert (tmp_path / "a").read_text() == "second"
    (tmp_path / "empty").mkdir()
    with folder_aside(tmp_path / "empty") as folder:
        (folder / "x").touch()
    for taken in ("a", "empty"):
        with pytest.raises(ValueError, match=f"out={tmp_path / taken} exists already"), folder_aside(tmp_path / taken):
            pass


def test_a_link_to_nowhere_is_something(tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"exists already \(a link\): give a new file"):
        refuse_taken(tmp_path / "out", folder=False)


def test_a_name_of_250_letters_has_a_place_beside_it(tmp_path):
    with written_aside(tmp_path / ("é" * 125)) as aside:
        aside.touch()
    assert [file.name for file in tmp_path.iterdir()] == ["é" * 125]


def test_what_2_dead_writers_left_is_cleared_away_and_what_a_live_one_writes_is_not(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    stem = f".out.{platform.node()}"
    (tmp_path / f"{stem}.{dead.pid}.partial").write_text("half")
    (tmp_path / f".out.elsewhere-{platform.node()}.{dead.pid}.partial").touch()  # another machine's: not ours to judge
    (tmp_path / f"{stem}.{os.getppid()}.partial").touch()
    with written_aside(tmp_path / "out") as aside:
        aside.touch()
    left = {f".out.elsewhere-{platform.node()}.{dead.pid}.partial", f"{stem}.{os.getppid()}.partial", "out"}
    assert {file.name for file in tmp_path.iterdir()} == left


def test_the_names_of_2_new_folders_are_on_the_disk_before_what_is_written_in_them(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr("pixart.aside.flush", flushed.append)
    for _ in range(2):  # the second time they are there
        with written_aside(tmp_path / "a" / "b" / "file") as aside:
            aside.write_text("content")
            flushed.append("written")
    assert set(flushed[: flushed.index("written")]) == {tmp_path, tmp_path / "a"}
    assert len(flushed) == 2 + 2 * 3  # of each file: its bytes and its name, and the word above


def put_its(folder: Path) -> None:
    folder.mkdir()
    (folder / "its").touch()


def test_the_second_of_2_writers_of_a_folder_is_refused_and_the_first_ends_well(tmp_path):
    (tmp_path / f".out.{platform.node()}.{os.getppid()}.partial").mkdir()  # whose process lives
    with (
        pytest.raises(ValueError, match=r"out=.*out is being written by another process"),
        folder_aside(tmp_path / "out"),
    ):
        pass
    (tmp_path / f".out.{platform.node()}.{os.getppid()}.partial").rmdir()
    with pytest.raises(ValueError, match="exists already"), folder_aside(tmp_path / "out"):
        put_its(tmp_path / "out")  # by one that began in the same moment
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["its"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_place_that_cannot_take_a_file_or_a_folder_is_named_by_its_key(tmp_path):
    with pytest.raises(ValueError, match=r"^json=.* is a folder and no file"):
        refuse_no_file(tmp_path, key="json")
    with pytest.raises(ValueError, match=r"^images=/dev/null cannot be written"):
        refuse_unwritable(Path("/dev/null"), key="images", inside=True)
    with pytest.raises(ValueError, match=r"^out=.* cannot be written \(File name too long\)"):
        refuse_unwritable(tmp_path / ("x" * 300), key="out", inside=True)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"^out=.*file/new cannot be written"):
        refuse_unwritable(tmp_path / "file" / "new", key="out", inside=True)


def test_asking_whether_something_can_be_written_makes_no_folder(tmp_path):
    refuse_unwritable(tmp_path / "new" / "inner", key="out", inside=True)
    refuse_no_file(tmp_path / "new" / "file.json", key="json")
    assert not any(tmp_path.iterdir())


def test_what_an_earlier_process_of_this_number_left_goes_and_names_alike_in_40_letters_are_no_rivals(tmp_path):
    name = "x" * 45
    with folder_aside(tmp_path / f"{name}-a") as first, folder_aside(tmp_path / f"{name}-b") as second:
        assert first != second
    (tmp_path / f".out.{platform.node()}.{os.getpid()}.partial").mkdir()
    (tmp_path / f".out.{platform.node()}.{os.getpid()}.partial" / "half").touch()
    with folder_aside(tmp_path / "out"):
        pass
    assert not any((tmp_path / "out").iterdir())
