"""The index of tars where they are, on a local disk or anywhere fsspec reaches."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from pixart.data.storage.fetch import fetch
from pixart.data.storage.index_table import Tar
from pixart.data.storage.indexing import PARTS_NAME, Indexed, Told, build_index, tars_below
from pixart.data.storage.indexing import index_tars as index_listed
from pixart.data.storage.remote import check_protocol
from pixart.preparation.account import IMAGE_USED, Prepared

BELOW = "tar in a folder below: index that folder too"
_MARKS = ("ETag", "etag", "md5", "LastModified", "last_modified", "mtime", "created")  # as kinds of storage tell them


class Remote(NamedTuple):
    """How to reach tars that are not on a local disk."""

    timeout: float  # seconds without a byte until an attempt is given up
    retries: int
    storage_options: Mapping[str, Any]  # of fsspec


def index_tars(source: str, out: Path | None, *, workers: int, checksums: bool, remote: Remote, told: Told) -> Prepared:
    """Index the ``*.tar`` in the folder or at the address ``source``, which stay as they are.

    The index goes to the folder ``out``, and into ``source`` where that is None, which an address cannot take. Tars at
    an address are fetched one by one for each of the ``workers``, described and removed again. See
    ``pixart.data.storage.indexing.build_index``.
    """
    if "://" not in source:
        found = _prepared(build_index(Path(source), out, workers=workers, checksums=checksums, told=told))
        return _with_those_below(found, tars_below(Path(source)))
    if out is None:
        raise ValueError(f"out is not set: the index of {source} needs a local folder")
    root = source.rstrip("/")
    tars = _listed(root, remote.storage_options)
    if not tars:
        raise ValueError(f"{source} lists no .tar: give the address of a folder of WebDataset tars")
    fetched = partial(_fetched, root, out / PARTS_NAME, remote)
    return _prepared(
        index_listed(tars, fetched, out, root=root, workers=workers, checksums=checksums, stamps=None, told=told)
    )


def _prepared(found: Indexed) -> Prepared:
    return Prepared(found.rows, found.shards, {IMAGE_USED: found.rows}, found.skipped, found.first_skipped, {}, {})


def _with_those_below(found: Prepared, below: list[str]) -> Prepared:
    if not below:
        return found
    skipped, first = {**found.skipped, BELOW: len(below)}, {**found.first_skipped, BELOW: below[0]}
    return found._replace(skipped=skipped, first_skipped=first)


def _listed(root: str, storage_options: Mapping[str, Any]) -> list[Tar]:
    from aiohttp import ClientError
    from botocore.exceptions import BotoCoreError
    from fsspec.core import url_to_fs

    check_protocol(root)
    system, path = url_to_fs(root, **storage_options)
    try:
        found = system.ls(f"{path}/", detail=True)
    except (OSError, ClientError, BotoCoreError) as error:
        said = " ".join(f"{type(error).__name__} {error}".split())
        raise ValueError(f"{root} cannot be listed ({said}): see the address, and storage_options") from error
    tars = [entry for entry in found if str(entry["name"]).endswith(".tar")]
    for entry in tars:
        if entry.get("type", "file") != "file":
            raise ValueError(f"{entry['name']} is no file ({entry['type']}): take it away, or give it another name")
    return sorted(map(_tar, tars))


def _tar(entry: Mapping[str, Any]) -> Tar:
    marks = [str(entry[mark]) for mark in _MARKS if entry.get(mark)]
    return Tar(str(entry["name"]).rpartition("/")[2], entry.get("size"), " ".join(marks))


@contextmanager
def _fetched(root: str, folder: Path, remote: Remote, tar: Tar) -> Iterator[Path]:
    with TemporaryDirectory(dir=folder, prefix=f"{tar.name}.") as place:
        path = Path(place) / tar.name
        fetch(f"{root}/{tar.name}", path, size=tar.size, sha256=None, **remote._asdict())
        yield path
