"""Trial ``disk``: no room, no permission, and files that were damaged between two runs."""

import errno
import resource
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pixart.torture.bench import Bench, told
from pixart.torture.cases import Case
from pixart.torture.comparison import EndState, left_over
from pixart.torture.mounts import may_mount, mounted, remount
from pixart.torture.operations import Kind, Operation
from pixart.torture.ranks import REFUSED, Ended, Verdict

_GROWING: set[Kind] = {"create", "write", "mkdir"}  # what a full disk refuses
_ROOMS = (0.1, 0.3, 0.5, 0.7, 0.9)  # of what the run takes: sizes of real disks that fill up
_FLIPPED = 0.5  # where in a file a bit is flipped


def disk(bench: Bench) -> Iterator[Case]:
    """All cases of the trial."""
    expected, operations = bench.operations()
    yield from _full(bench, expected, operations)
    yield from _read_only(bench, expected, operations)
    yield from _real(bench, expected)
    yield from _damaged(bench, expected)


def _real(bench: Bench, expected: EndState) -> Iterator[Case]:
    """The same from the kernel: bounds on files, and disks in memory where they may be mounted."""
    sizes = [path.stat().st_size for path in bench.root.rglob("*") if path.is_file()]
    for share in _ROOMS:
        limit, room = int(share * max(sizes)), int(share * sum(sizes))
        yield Case(f"no file above {limit} bytes", partial(_limited, bench, expected, limit))
        if may_mount():
            yield Case(f"a disk of {room} bytes", partial(_small_disk, bench, expected, room))
    if may_mount():
        yield Case("a disk mounted read-only", partial(_mounted_read_only, bench, expected))
    else:
        bench.note(
            "this process may not mount disks: a full and a read-only one were left out, bounds on files were not"
        )


def _full(bench: Bench, expected: EndState, operations: list[Operation]) -> Iterator[Case]:
    """From each operation on that needs room there is none."""
    growing = [operation for operation in operations if operation.kind in _GROWING]
    for number, operation in enumerate(growing):
        name = f"full disk from {operation.told(bench.root)}, number {number} of those that need room"
        yield Case(name, partial(_refused, bench, expected, number, _GROWING, errno.ENOSPC))


def _read_only(bench: Bench, expected: EndState, operations: list[Operation]) -> Iterator[Case]:
    """As a disk that fails turns read-only: at the first operation of each kind in each folder."""
    changing: set[Kind] = {operation.kind for operation in operations} - {"sync"}
    met = set()
    for number, operation in enumerate(o for o in operations if o.kind in changing):
        if (what := (operation.kind, operation.path.parent.name)) not in met:
            met.add(what)
            name = f"read-only from {operation.told(bench.root)}"
            yield Case(name, partial(_refused, bench, expected, number, changing, errno.EROFS))


def _refused(bench: Bench, expected: EndState, number: int, kinds: set[Kind], error: int, at: Path) -> list[str]:
    left = number

    def judge(operation: Operation) -> Verdict:
        nonlocal left
        left -= operation.kind in kinds
        return error if operation.kind in kinds and left < 0 else "go on"

    problems = _ends_with_a_sentence(bench.run(at, judge))
    if error == errno.ENOSPC and (left_behind := left_over(at / "run")):
        problems.append(f"what could not be written whole was left: {', '.join(left_behind)}")
    return problems + bench.finish(at, expected)


def _ends_with_a_sentence(ended: Ended) -> list[str]:
    if ended.in_time and ended.sentence and set(ended.codes) == {REFUSED}:
        return []
    return [f"no sentence says why it ends: {told(ended)}"]


def _small_disk(bench: Bench, expected: EndState, size: int, at: Path) -> list[str]:
    said = at / "said"  # not on that disk
    with mounted(at, size=size) as place:
        problems = _ends_with_a_sentence(bench.run(place, said=said))
        remount(place, size=100 * size)
        return problems + bench.finish(place, expected, said=said)


def _mounted_read_only(bench: Bench, expected: EndState, at: Path) -> list[str]:
    said = at / "said"
    with mounted(at, size=2**30) as place:
        (place / "run").mkdir()
        remount(place, read_only=True)
        problems = _ends_with_a_sentence(bench.run(place, said=said))
        remount(place)
        return problems + bench.finish(place, expected, said=said)


def _limited(bench: Bench, expected: EndState, limit: int, at: Path) -> list[str]:
    def prepare(_: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    return _ends_with_a_sentence(bench.run(at, prepare=prepare)) + bench.finish(at, expected)


def _damaged(bench: Bench, expected: EndState) -> Iterator[Case]:
    """Each file of the newest of two checkpoints, truncated, emptied, flipped or gone; then all of them."""
    stopped = bench.folder / "stopped"
    shutil.rmtree(stopped, ignore_errors=True)

    def judge(_: Operation) -> Verdict:
        return "kill" if len(_steps(stopped)) == 2 else "go on"

    bench.run(stopped, judge)
    newest = _steps(stopped)[-1]
    names = [str(path.relative_to(stopped)) for path in sorted(newest.rglob("*")) if path.is_file()]
    for name in names:
        for word, damage in DAMAGES.items():
            task = partial(_passed_over, bench, expected, stopped, name, damage, newest.name)
            yield Case(f"{name} {word}", task)
    for word, damage in DAMAGES.items():
        latest = "run/checkpoints/latest"
        yield Case(f"latest {word}", partial(_passed_over, bench, expected, stopped, latest, damage, ""))
        yield Case(f"every checkpoint {word}", partial(_all_lost, bench, stopped, damage))


def _steps(at: Path) -> list[Path]:
    return sorted((at / "run" / "checkpoints").glob("step_*"))


def _passed_over(
    bench: Bench,
    expected: EndState,
    stopped: Path,
    name: str,
    damage: Callable[[Path], None],
    named: str,
    at: Path,
) -> list[str]:
    shutil.copytree(stopped / "run", at / "run")
    if (at / name).exists():
        damage(at / name)
    ended = bench.run(at)
    if any(ended.codes):
        return [f"it could not be taken up: {told(ended)}"]
    silent = named and not any(named in line and "passed over" in line for line in ended.said[0].splitlines())
    return ([f"{named} is damaged and nothing was said"] if silent else []) + bench.compared(at, expected)


def _all_lost(bench: Bench, stopped: Path, damage: Callable[[Path], None], at: Path) -> list[str]:
    shutil.copytree(stopped / "run", at / "run")
    for step in _steps(at):
        for file in [path for path in step.rglob("*") if path.is_file()]:
            damage(file)
    before = {path: path.stat().st_size for path in (at / "run" / "checkpoints").rglob("*")}
    problems = _ends_with_a_sentence(bench.run(at))
    after = {path: path.stat().st_size for path in (at / "run" / "checkpoints").rglob("*")}
    return problems + ([] if before == after else ["what was left of the checkpoints was changed"])


def _truncated(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def _emptied(file: Path) -> None:
    file.write_bytes(b"")


def _flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[int(_FLIPPED * len(content))] ^= 1
    file.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated": _truncated,
    "emptied": _emptied,
    "with a bit flipped": _flipped,
    "deleted": Path.unlink,
}
