"""What an index says of itself, sealed: hashes of its columns, and a fingerprint over them and all that it says."""

import hashlib
import json
from typing import Any

import pyarrow as pa

from pixart.data.storage.index_table import SCHEMA

_SEAL = ("root", "columns", "fingerprint")  # beside what is fingerprinted; where the tars lie makes no other index


class Hashes:
    """The sha256 of each column, a piece at a time; that of the keys is left to their digests."""

    def __init__(self) -> None:
        """Of no row yet."""
        self._hashes = {name: hashlib.sha256() for name in SCHEMA.names if name != "key"}

    def update(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Add the next rows."""
        for name, found in self._hashes.items():
            found.update(rows.column(name).to_numpy().data)

    def digests(self) -> dict[str, str]:
        """The hash of each column so far, in hexadecimal."""
        return {name: found.hexdigest() for name, found in self._hashes.items()}


def sealed(about: dict[str, Any], root: str | None, columns: dict[str, str]) -> dict[str, Any]:
    """``about`` with ``root``, the hashes of the ``columns``, and the fingerprint of it and them."""
    return {**about, "root": root, "columns": columns, "fingerprint": _fingerprint(about, columns)}


def is_sealed(about: dict[str, Any]) -> bool:
    """Whether ``about`` is as ``sealed`` made it; ``KeyError`` where it never was."""
    content = {name: value for name, value in about.items() if name not in _SEAL}
    return about["fingerprint"] == _fingerprint(content, about["columns"])


def _fingerprint(about: dict[str, Any], columns: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps([about, columns], sort_keys=True).encode()).hexdigest()
