"""Where an encoder's files lie, and the fingerprint of what is in them."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
CHUNK = 1 << 22  # bytes read at a time: weights are hashed without being held


def find_folder(source: str, *, key: str, files: Sequence[str]) -> Path:
    """The local folder of ``source``: itself, or of a hub name whose ``files`` (patterns) go to the hub cache.

    Raises ``ValueError`` naming the config ``key`` where there is neither.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if not HUB_NAME.fullmatch(source):
        raise ValueError(f"{key}: no folder '{source}'; give a folder with config.json and safetensors, or a hub name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(source, allow_patterns=list(files)))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        # OSError also covers "not in the cache and no network".
        raise ValueError(
            f"{key}: '{source}' is neither a local folder nor obtainable from the hub ({type(error).__name__}); "
            "give a folder, or fetch it once with `hf download` where there is a network"
        ) from error


def require(folder: Path, names: Iterable[str], *, key: str, mend: str) -> list[Path]:
    """All files of ``folder`` that match ``names`` (glob patterns), sorted; each pattern must match at least one."""
    found: set[Path] = set()
    for name in names:
        matches = sorted(folder.glob(name))
        if not matches:
            raise ValueError(f"{key}: {folder} holds no {name}; {mend}")
        found.update(matches)
    return sorted(found)


@contextmanager
def readable(folder: Path, *, key: str, kind: str) -> Iterator[None]:
    """Turns what the loaders raise on truncated or foreign files into one sentence that names the config ``key``."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{key}: {folder} is not a readable {kind} ({reason}); fetch or convert it again") from error


def refuse_missing(names: Iterable[str], folder: Path, *, key: str) -> None:
    """The loaders fill missing tensors with random ones and only warn: a frozen encoder must not be random in part."""
    missing = sorted(names)
    if missing:
        raise ValueError(
            f"{key}: the weights in {folder} lack {len(missing)} tensors, the first is {missing[0]}; "
            "they belong to another model or are incomplete, fetch or convert them again"
        )


def fingerprint(files: Iterable[Path], **settings: str | int | float) -> str:
    """16 hex digits of the SHA-256 of the files' names and bytes and of the settings; not of where the files lie."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for file in sorted(files, key=lambda f: f.name):
        digest.update(f"\n{file.name} {file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()[:16]
