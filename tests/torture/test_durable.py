"""After a power cut there is what was synced, and no more."""

import os
from pathlib import Path

from pixart.torture.durable import Disk, lay_out


def test_of_3_files_only_the_synced_one_in_a_synced_folder_has_its_name_and_its_bytes(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    for name in ("whole", "nameless", "empty"):
        (tmp_path / name).write_bytes(b"12345")
    disk.sync(tmp_path / "whole")
    disk.sync(tmp_path / "nameless")
    (tmp_path / "nameless").rename(tmp_path / "later")
    (tmp_path / "whole").write_bytes(b"12345678")  # more than was synced
    disk.sync(tmp_path)
    (tmp_path / "later").rename(tmp_path / "renamed")
    (tmp_path / "new").mkdir()
    assert disk.cut(names_survive=False) == {"empty": b"", "later": b"12345", "whole": b"12345"}
    assert disk.cut(names_survive=True) == {"empty": b"", "new": None, "renamed": b"12345", "whole": b"12345"}
    disk.close()


def test_a_removal_that_was_not_synced_is_undone_even_if_a_new_file_takes_the_place(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").write_bytes(b"old")
    disk = Disk(tmp_path)
    os.remove(tmp_path / "folder" / "old")
    for number in range(8):  # file systems like to give a freed inode away again
        (tmp_path / f"new_{number}").write_bytes(b"new")
        disk.sync(tmp_path / f"new_{number}")
    assert disk.cut(names_survive=False) == {"folder": None, "folder/old": b"old"}
    disk.close()


def test_a_tree_is_laid_out_as_it_was_cut(tmp_path: Path) -> None:
    tree = {"a": None, "a/b": None, "a/b/c": b"content", "d": b""}
    lay_out(tree, tmp_path / "again")
    disk = Disk(tmp_path / "again")
    assert disk.cut(names_survive=True) == tree
    disk.close()
