"""The account of a conversion: what became of each tensor, as rows and as plain text."""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

Action = Literal[
    "copied", "folded", "converted", "fresh", "left behind", "re-made", "renamed", "split", "joined", "written"
]  # fmt: skip


class Row(NamedTuple):
    """What became of one tensor."""

    tensor: str
    action: Action
    detail: str  # "" where there is nothing to add


def format_table(rows: list[Row]) -> str:
    """The rows as plain text in aligned columns, equal fates of consecutive blocks on one line (``blocks.0-27.…``)."""
    lines = [(_span(name, blocks), action, detail) for name, blocks, action, detail in _grouped(rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(2)]
    return "\n".join(f"{name:{widths[0]}}  {action:{widths[1]}}  {detail}".rstrip() for name, action, detail in lines)


def _grouped(rows: list[Row]) -> Iterator[tuple[str, list[int], str, str]]:
    groups: dict[tuple[str, str, str], list[int]] = {}
    for row in rows:
        match = re.match(r"(?:transformer_)?blocks\.(\d+)\.", row.tensor)
        name = re.sub(r"^((?:transformer_)?blocks)\.\d+\.", r"\1.*.", row.tensor)
        detail = row.detail.replace(f"blocks.{match[1]}.", "blocks.*.") if match else row.detail
        groups.setdefault((name, row.action, detail), []).extend([int(match[1])] if match else [])
    for (name, action, detail), blocks in groups.items():
        yield name, sorted(blocks), action, detail


def _span(name: str, blocks: list[int]) -> str:
    """``blocks.*.x`` with the numbers of its blocks: 0-27, or 0-3,5."""
    runs: list[list[int]] = []
    for block in blocks:
        if runs and block == runs[-1][1] + 1:
            runs[-1][1] = block
        else:
            runs.append([block, block])
    return name.replace("*", ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs), 1)
