"""What a door answers to ``--help``: its configuration as it is written, since its comments say what every key does."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

ASKS = {"--help", "-h"}
_HYDRAS = ("defaults:", "hydra:", "# @package")  # what nobody but Hydra reads
_BASE = "shared"  # of the other files of a group, and no choice itself


def help_of(configs: Path, name: str, arguments: Sequence[str]) -> str:
    """The text of ``configs/<name>.yaml`` and of each file that ``arguments`` choose, and what there is to choose."""
    groups = _groups(configs / f"{name}.yaml")
    files = [file for argument in arguments for file in _chosen(configs, groups, argument)]
    texts = [_written(configs / f"{name}.yaml")]
    texts += [f"# {file.relative_to(configs.parent)}\n{_written(file)}" for file in files]
    if groups:
        options = (f"  {group}={'|'.join(_options(configs / group))}" for group in groups)
        texts.append("\n".join([f"To choose, each a file of {configs.name}/<group>/:", *options]))
    texts.append("key=value sets a key (a.b=value one in a section), and --cfg job prints the values that come of it.")
    return "\n\n".join(texts) + "\n"


def _written(file: Path) -> str:
    """A file without what is Hydra's."""
    kept, hydras = [], False
    for line in file.read_text(encoding="utf-8").splitlines():
        if line[:1].strip():
            hydras = line.startswith(_HYDRAS)
        if not hydras:
            kept.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()


def _groups(file: Path) -> list[str]:
    """Those that a configuration chooses from, and the ones that it is built on."""
    found: list[str] = []
    for entry in _defaults(file):
        if isinstance(entry, str):
            found += _groups(file.with_stem(entry))
        else:
            found += [str(key) for key in entry if re.fullmatch(r"\w+", str(key))]
    return found


def _options(group: Path) -> list[str]:
    return sorted(file.stem for file in group.glob("*.yaml") if file.stem != _BASE)


def _chosen(configs: Path, groups: Sequence[str], argument: str) -> Iterator[Path]:
    """The file of ``group=option``, and those that it is built on."""
    group, _, option = argument.lstrip("+").partition("=")
    option = option.strip("'\"")
    file = configs / group / f"{option}.yaml"
    if group in groups and file.is_file():
        yield from _with_bases(file)


def _with_bases(file: Path) -> Iterator[Path]:
    yield file
    for entry in _defaults(file):
        if isinstance(entry, str):
            yield from _with_bases(file.with_stem(entry))


def _defaults(file: Path) -> list[Any]:
    """What Hydra composes beneath a file; that file itself left out."""
    written = OmegaConf.load(file)
    assert isinstance(written, DictConfig)
    return [entry for entry in written.get("defaults", []) if entry != "_self_"]
