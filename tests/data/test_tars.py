"""Laws of the pass over a tar: what the standard library finds is found, every byte is hashed, and damage is told."""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from pixart.data.tar_stream import TarStream

NAMES = ["a/b.jpg", "0.txt", "d" * 60 + "/" + "e" * 90 + ".json"]
LONG = ["é.txt", "d" * 60 + "/" + "e" * 150 + ".json", "last.cls"]


def write(path: Path, names: list[str], format: int, **about: object) -> None:
    with tarfile.open(path, "w", format=format) as archive:
        for count, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = [0, 1, 511, 512, 513, 2000][count % 6]
            for key, value in about.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(bytes([count]) * info.size))
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)


@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize(
    ("format", "names", "about"),
    [
        (tarfile.USTAR_FORMAT, NAMES, {}),
        (tarfile.PAX_FORMAT, NAMES + LONG, {"mtime": 1.5}),
        (tarfile.GNU_FORMAT, NAMES + LONG, {"uid": 2**40}),
    ],
)
def test_the_members_of_three_kinds_of_tar_are_those_that_the_standard_library_finds(
    tmp_path: Path, hashed: bool, format: int, names: list[str], about: dict[str, object]
):
    path = tmp_path / "x.tar"
    write(path, names, format, **about)
    with tarfile.open(path) as archive:
        expected = [(m.name, m.offset_data, m.size) for m in archive.getmembers() if m.isfile()]
    assert len(expected) == len(names)
    with TarStream(path, hashed=hashed) as stream:
        assert [(name, *span) for name, span in stream.members()] == expected
        assert stream.sha256() == (hashlib.sha256(path.read_bytes()).hexdigest() if hashed else None)
