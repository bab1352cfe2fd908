"""Keys that a run leaves out: a file that people may read and write, with a version for each addition.

    {"format": "pixart-quarantine", "version": 2, "keys": {"00012/000120034": "the image cannot be decoded", …}}

What is left out is a matter of the plan: a run goes on under the same keys or not at all.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pixart.aside import written_aside
from pixart.data.storage.index_table import digests_of

_FORMAT = "pixart-quarantine"
_BITS = 20
_PIECE = 2**20  # rows looked at together


class Quarantine(NamedTuple):
    """The keys to leave out."""

    version: int  # from 1
    keys: dict[str, str]  # key -> reason
    fingerprint: str  # equal for two quarantines exactly when their keys are


def read_quarantine(path: Path) -> Quarantine:
    """The quarantine in the file ``path``; ``ValueError`` in one sentence if it is missing or damaged."""
    if not path.is_file():
        raise ValueError(f"quarantine {path} is missing: give a file that tools/doctor.py wrote, or null")
    try:
        about = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except _TwiceError as error:
        raise ValueError(f"quarantine {path} says {error} twice: leave one of them") from error
    except RecursionError as error:
        raise ValueError(f"quarantine {path} is no JSON of this kind, so deep it is: write it anew") from error
    except ValueError as error:
        raise ValueError(f"quarantine {path} is no JSON ({error}): mend it, or write it anew") from error
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        raise ValueError(f'quarantine {path} is another kind of file: its "format" is to be "{_FORMAT}"')
    version, keys = about.get("version"), about.get("keys")
    if type(version) is not int or version < 1:
        raise ValueError(f'quarantine {path}: its "version" is to be a whole number from 1, and is {version!r}')
    if not isinstance(keys, dict) or not all(isinstance(reason, str) for reason in keys.values()):
        raise ValueError(f'quarantine {path}: its "keys" are to be an object of key: reason')
    try:
        "".join(keys).encode()
    except UnicodeEncodeError as error:
        key = ascii(next(key for key in keys if key != key.encode("utf-8", "replace").decode()))
        raise ValueError(f"quarantine {path}: its key {key} holds half a character, which no sample's does") from error
    return Quarantine(version, keys, _fingerprint(keys))


class _TwiceError(ValueError):
    """A name that an object has twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict[str, Any]()
    for name, value in pairs:
        if name in found:
            raise _TwiceError(ascii(name))
        found[name] = value
    return found


def add(path: Path, keys: Mapping[str, str]) -> Quarantine:
    """Add ``keys`` (key -> reason) to the file ``path``, as its next version, and return what is in it then.

    The file is made if there is none; it stays as it is if it holds all of them. Raises ``ValueError`` as reading does.
    """
    old = read_quarantine(path) if path.exists() else Quarantine(0, {}, "")
    if old.version and keys.keys() <= old.keys.keys():
        return old
    new = Quarantine(old.version + 1, {**keys, **old.keys}, _fingerprint({**keys, **old.keys}))
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"format": _FORMAT, "version": new.version, "keys": new.keys}
    with written_aside(path) as file:
        file.write_text(json.dumps(about, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    return new


def rows_left(digests: NDArray[np.uint64], keys: Any, quarantine: Quarantine) -> NDArray[np.bool_]:
    """Which rows of a source stay: (n,) True where the key is not in ``quarantine``.

    ``digests`` (n,) are those of ``keys``, a pyarrow array of n strings. The keys of a source are unique: as many keys
    of the quarantine as are not found are unknown to it.
    """
    left = np.ones(len(digests), dtype=np.bool_)
    suspects = _matches(digests, digests_of(quarantine.keys))
    # Two keys may share a digest: the few rows that match are looked at.
    found = keys.take(suspects).to_pylist()
    left[suspects] = [key not in quarantine.keys for key in found]
    return left


def _matches(digests: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Which of ``digests`` (n,) are ``wanted``, ascending; a table of their first bits spares sorting all n."""
    shift = np.uint64(64 - _BITS)
    table = np.zeros(1 << _BITS, dtype=np.bool_)
    table[wanted >> shift] = True
    pieces = [
        start + np.flatnonzero(table[digests[start : start + _PIECE] >> shift])
        for start in range(0, len(digests), _PIECE)
    ]
    rows = np.concatenate([np.empty(0, dtype=np.int64), *pieces])
    return rows[np.isin(digests[rows], wanted)]


def _fingerprint(keys: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(keys)).encode()).hexdigest()
