"""What a disk holds after a power cut: only what was synced, by the letter of POSIX.

A file's bytes are safe once the file was synced, and a name in a folder once the folder was; a file whose name is safe
and whose bytes are not comes back empty. Real file systems mostly keep more, and never less.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_Key = tuple[int, int]  # device and inode
Tree = dict[str, bytes | None]  # path -> bytes of a file, None for a folder; a folder comes before what lies in it


@dataclass
class Disk:
    """The safe state of all that lies beneath ``root``, which at the start is all that is there."""

    root: Path
    contents: dict[_Key, bytes] = field(default_factory=dict)  # of files
    names: dict[_Key, dict[str, _Key]] = field(default_factory=dict)  # of folders
    folders: set[_Key] = field(default_factory=set)
    held: dict[_Key, int] = field(default_factory=dict)  # descriptors: an inode in use is given to nobody else

    def __post_init__(self) -> None:
        for path in (self.root, *self.root.rglob("*")):
            self.sync(path)

    def close(self) -> None:
        """Let go of the inodes."""
        for descriptor in self.held.values():
            os.close(descriptor)

    def _hold(self, path: Path) -> _Key:
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW)
        about = os.fstat(descriptor)
        key = (about.st_dev, about.st_ino)
        if key in self.held:
            os.close(descriptor)
        else:
            self.held[key] = descriptor
        return key

    def sync(self, path: Path) -> None:
        """``path`` is being synced."""
        key = self._hold(path)
        if path.is_dir():
            self.names[key] = {name: self._hold(path / name) for name in sorted(os.listdir(path))}
            self.folders |= {key, *(self.names[key][name] for name in self.names[key] if (path / name).is_dir())}
        else:
            self.contents[key] = path.read_bytes()

    def cut(self, *, names_survive: bool) -> Tree:
        """What would be there if the power were cut now.

        Args:
            names_survive: of what was not synced only the bytes are lost, and all names are as they were last, as on
                file systems that write their journal before the data; else the names are lost too.
        """
        tree: Tree = {}
        if names_survive:
            for path in sorted(self.root.rglob("*")):
                is_file = not path.is_dir()
                tree[str(path.relative_to(self.root))] = self.contents.get(self._hold(path), b"") if is_file else None
        else:
            self._add(tree, "", self._hold(self.root))
        return tree

    def _add(self, tree: Tree, prefix: str, folder: _Key) -> None:
        for name, key in self.names.get(folder, {}).items():
            tree[prefix + name] = None if key in self.folders else self.contents.get(key, b"")
            if key in self.folders:
                self._add(tree, f"{prefix}{name}/", key)


def lay_out(tree: Mapping[str, bytes | None], folder: Path) -> None:
    """Make a folder of what a tree holds."""
    folder.mkdir(parents=True)
    for name, content in tree.items():
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)
