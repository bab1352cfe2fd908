"""The zip that ``torch.save`` writes: whether its records are whole, and as long as the tensors over them need.

A reader that maps the file looks at a place and a length and asks no more: a record that is too short would lend its
tensor the bytes of the next one.
"""

import pickle
import zipfile
from pathlib import Path
from typing import Any

PICKLE = "data.pkl"
BYTES = {
    **dict.fromkeys(("DoubleStorage", "LongStorage", "ComplexFloatStorage"), 8),
    **dict.fromkeys(("FloatStorage", "IntStorage", "QInt32Storage"), 4),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
    **dict.fromkeys(("CharStorage", "ByteStorage", "BoolStorage", "QInt8Storage", "QUInt8Storage"), 1),
    "UntypedStorage": 1,
    "ComplexDoubleStorage": 16,
}  # of one number in each kind of storage


def refuse_damaged(path: Path, archive: zipfile.ZipFile) -> None:
    """``ValueError`` for what would unpack to more than the file, records of one name, and wrong checksums.

    Every byte is read once. Where all checksums are zero, torch was told to write none.
    """
    entries = archive.infolist()
    # torch stores its records as they are, so nothing of an honest file is larger unpacked than the file.
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError(
            f"{path}: would unpack to more than its own size, which no file of torch.save does; it is not opened"
        )
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: holds two records of one name, which no file of torch.save does; it is not opened")
    damaged = archive.testzip() if any(entry.CRC for entry in entries) else None
    if damaged is not None:
        raise ValueError(f"{path}: its record {damaged} does not have its checksum; copy or download it again")


def refuse_misfits(path: Path, archive: zipfile.ZipFile) -> None:
    """``ValueError`` for a record that is shorter or longer than its tensors need; ask after the pickle was let in."""
    sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    top = archive.infolist()[0].filename.partition("/")[0]  # as torch finds it
    entry = archive.getinfo(f"{top}/{PICKLE}")
    del entry.CRC  # compared before, or none was written
    with archive.open(entry) as file:
        follower = _Follower(file)
        follower.load()
    for key, needed in follower.needed.items():
        found = sizes.get(f"{top}/data/{key}")
        if found != needed:
            raise ValueError(
                f"{path}: its record data/{key} holds {found} bytes and the tensors over it need {needed}; "
                "copy or download it again"
            )


class _Nothing(dict[Any, Any]):
    """Stands for whatever a pickle names; takes everything and does nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __setstate__(self, _: object) -> None:
        pass


class _Follower(pickle.Unpickler):
    """Follows a pickle without importing or calling anything, and notes how many bytes each storage needs."""

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.needed: dict[str, int] = {}

    def find_class(self, _: str, name: str) -> Any:
        return type(name, (_Nothing,), {})

    def persistent_load(self, pid: Any) -> Any:
        _, kind, key, _, count = pid
        if kind.__name__ in BYTES:
            self.needed[str(key)] = count * BYTES[kind.__name__]
        return _Nothing()
