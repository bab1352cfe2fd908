"""Checkpoints, to resume: written aside, verified, renamed; ``latest`` points at the last good one."""

import errno
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from pixart.aside import flush, write_atomically
from pixart.training.checkpoints.manifest import problem_of, write_flushed, write_manifest
from pixart.training.checkpoints.pieces import Piece, write_pieces
from pixart.training.processes.ranks import Ranks

STATE, LATEST = "state.json", "latest"
EARLIER_STATE = "state.pt"  # what the first version of this project wrote

T = TypeVar("T")


class _Failure(NamedTuple):
    """Why this rank could not do its part."""

    reason: str
    is_full: bool


class Checkpoints:
    """The folder ``checkpoints/`` of a run. All ranks call each method together.

    Args:
        folder: made when the first checkpoint is; all ranks must see the same one.
        keep: how many of the newest stay.
        keep_every: those of every so many steps stay for good; 0 for none.
        logs: files that a resumed run goes on writing: flushed to the disk before a checkpoint counts.
        warn: told, in one sentence, of a checkpoint that is damaged and passed over.
    """

    def __init__(
        self,
        folder: Path,
        ranks: Ranks,
        *,
        keep: int,
        keep_every: int,
        logs: Sequence[Path],
        warn: Callable[[str], None],
    ):
        self.folder = folder
        self.ranks = ranks
        self.keep = keep
        self.keep_every = keep_every
        self.logs = logs
        self.warn = warn
        self._damaged: set[str] = set()

    def write(self, step: int, pieces: list[Piece], values: str) -> None:
        """Write this rank's ``pieces`` and, once for all, ``values``, a JSON text, as the checkpoint of ``step``.

        Raises:
            ValueError: on every rank alike, where one could not write; what was there before is as it was.
        """
        final = self.folder / f"step_{step:08d}"
        aside = self.folder / f".{final.name}.new"
        self._together(aside, lambda: self._make_room(aside) if self.ranks.is_first else None)
        digests = self._together(aside, lambda: self._write_mine(aside, pieces))
        self._together(
            aside, lambda: self._make_final(final, aside, dict(digests), values) if self.ranks.is_first else None
        )

    def _together(self, aside: Path, work: Callable[[], T]) -> list[T]:
        """What ``work`` gives on each rank; if it fails on one, all say so and the part is removed."""
        results = self.ranks.gathered(_tried(work))
        done = [result for result in results if not isinstance(result, _Failure)]
        failures = [result for result in results if isinstance(result, _Failure)]
        if not failures:
            return done
        if self.ranks.is_first:
            shutil.rmtree(aside, ignore_errors=True)
        raise ValueError(self.ranks.from_first(self._sentence(aside, failures[0])))

    def _sentence(self, aside: Path, failure: _Failure) -> str:
        mend = "free space there or lower keep_checkpoints" if failure.is_full else "see that it can be written"
        found = self._complete()
        last = f"the last good one is {found[0].name}" if found else "there is none before it"
        name = aside.name.removeprefix(".").removesuffix(".new")
        return (
            f"checkpoint {self.folder / name} cannot be written ({failure.reason}): {mend}, and run the same command "
            f"again; {last}"
        )

    def _make_room(self, aside: Path) -> None:
        """Clear away what dead runs left, and make the folder to write in."""
        self._clear()
        is_new = not self.folder.exists()
        aside.mkdir(parents=True)
        if is_new:
            flush(self.folder.parent)  # or a power cut would take all checkpoints with it

    def _clear(self) -> None:
        for left in self.folder.glob(".step_*"):
            shutil.rmtree(left)

    def _write_mine(self, aside: Path, pieces: list[Piece]) -> tuple[str, str]:
        aside.mkdir(exist_ok=True)  # over a network, another machine may not see it yet
        name = f"rank_{self.ranks.rank:05d}.safetensors"
        return name, write_pieces(aside / name, pieces)

    def _make_final(self, final: Path, aside: Path, digests: dict[str, str], values: str) -> None:
        for log in self.logs:
            if log.exists():
                flush(log)
        digests[STATE] = write_flushed(aside / STATE, values)
        write_manifest(aside, step=_step(final), digests=digests)
        flush(aside)
        if final.exists():  # a damaged one, that was passed over
            self._remove(final)
        aside.replace(final)
        flush(self.folder)
        self._damaged.discard(final.name)
        write_atomically(self.folder / LATEST, final.name)
        self._forget_old(_step(final))

    def _forget_old(self, step: int) -> None:
        """Those after ``step``, from which no run goes on, were damaged: they were passed over for an earlier one."""
        whole = [found for found in self._complete() if _step(found) <= step and found.name not in self._damaged]
        kept = whole[: self.keep] + [
            found for found in whole if self.keep_every and _step(found) % self.keep_every == 0
        ]
        for old in set(self._complete()).difference(kept):
            self._remove(old)

    def _remove(self, folder: Path) -> None:
        """In such an order that a kill leaves no part of it under its name."""
        dead = folder.with_name(f".{folder.name}.old")
        folder.replace(dead)
        shutil.rmtree(dead)

    def _complete(self) -> list[Path]:
        """Newest first."""
        found = [path for path in self.folder.glob("step_*") if re.fullmatch(r"step_\d+", path.name)]
        return sorted(found, key=_step, reverse=True)

    def newest(self) -> Path | None:
        """The newest good checkpoint, its checksums compared; None where there is none at all.

        Raises:
            ValueError: checkpoints exist and every one of them is damaged, or an earlier version wrote it.
        """
        names, pointed = self.ranks.from_first(([found.name for found in self._complete()], self._pointed_at()))
        if names and pointed != names[0]:
            self.warn(f"{self.folder / LATEST} names {pointed or 'nothing'}, but the newest checkpoint is {names[0]}")
        for name in names:
            problem = next((told for told in self._problems(name) if told), None)
            if problem is None:
                return self._chosen(name, pointed)
            self.warn(f"checkpoint {self.folder / name} is passed over: {problem}")
            self._damaged.add(name)
        if names:
            raise ValueError(
                f"no checkpoint in {self.folder} can be read: delete the folder to start again, or set another run_dir"
            )
        return None

    def _problems(self, name: str) -> list[str | None]:
        """What each rank finds wrong; each looks into every so-many-th file."""
        folder = self.folder / name
        return self.ranks.gathered(problem_of(folder, step=_step(folder), part=self.ranks.rank, parts=self.ranks.size))

    def _pointed_at(self) -> str | None:
        try:
            return (self.folder / LATEST).read_text(errors="replace").strip()
        except OSError:
            return None

    def _chosen(self, name: str, pointed: str | None) -> Path:
        folder = self.folder / name
        if self.ranks.from_first((folder / EARLIER_STATE).exists()):
            raise ValueError(
                f"checkpoint {folder} was written by an earlier version of this project: finish the run with that one, "
                f"or start a new run from its weights (init_from={self.folder.parent} run_dir=…)"
            )
        if self.ranks.is_first:
            with suppress(OSError):  # no run depends on it
                self._clear()  # now: a run that is done saves no more
                if pointed != name:
                    write_atomically(self.folder / LATEST, name)
        return folder


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))


def _tried(work: Callable[[], T]) -> T | _Failure:
    try:
        return work()
    except OSError as error:
        return _Failure(error.strerror or str(error), error.errno in (errno.ENOSPC, errno.EDQUOT))
