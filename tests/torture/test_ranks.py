"""A watched process is asked about each operation on its files, whoever makes it."""

import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file

from pixart.config import Config
from pixart.torture.operations import Operation
from pixart.torture.ranks import REFUSED, Ended, Judge, Ranks, Verdict
from pixart.torture.syscalls import unsupported

pytestmark = pytest.mark.skipif(unsupported() is not None, reason=str(unsupported()))


def watched(root: Path, task: Callable[[], None], judge: Judge | None) -> Ended:
    config = cast(Config, None)  # the task asks for none
    root.mkdir(exist_ok=True)
    with Ranks(config, 1, root.parent / "said", root=root, task=lambda _: task()) as ranks:
        return ranks.end(20.0, judge)


def seen(root: Path, task: Callable[[], None]) -> list[str]:
    operations: list[Operation] = []

    def note(operation: Operation) -> Verdict:
        operations.append(operation)
        return "go on"

    ended = watched(root, task, note)
    assert ended.codes == [0], ended.said
    return [operation.told(root) for operation in operations]


def test_9_operations_of_python_are_seen_in_their_order_and_reading_is_none(tmp_path: Path) -> None:
    root = tmp_path.resolve() / "run"

    def task() -> None:
        (root / "folder").mkdir()
        with (root / "folder" / "file").open("wb") as file:
            file.write(b"12345")
            file.flush()
            os.fsync(file.fileno())
        (root / "folder" / "file").rename(root / "folder" / "final")
        (root / "folder" / "final").read_bytes()
        with (root / "folder" / "final").open("ab") as file:
            file.write(b"67")
        shutil.rmtree(root / "folder")
        (tmp_path / "elsewhere").write_text("not looked at")

    assert seen(root, task) == [
        *("mkdir folder", "create folder/file", "write of 5 bytes folder/file", "sync folder/file"),
        *("rename folder/final", "write of 2 bytes folder/final", "remove folder/final", "remove folder"),
    ]


@pytest.mark.parametrize("writer", ["torch", "safetensors", "a thread", "a map"])
def test_what_native_code_and_other_threads_write_is_seen_to_the_last_byte(tmp_path: Path, writer: str) -> None:
    root = tmp_path.resolve() / "run"
    tensors = {"weight": torch.arange(1000.0)}

    def mapped() -> None:
        torch.from_file(str(root / "file"), shared=True, size=1000, dtype=torch.float32)

    def beside() -> None:
        thread = threading.Thread(target=lambda: (root / "file").write_bytes(bytes(4000)))
        thread.start()
        thread.join()

    tasks: dict[str, Callable[[], Any]] = {
        "torch": lambda: torch.save(tensors, root / "file"),
        "safetensors": lambda: save_file(tensors, root / "file"),
        "a thread": beside,
        "a map": mapped,
    }
    found = seen(root, tasks[writer])
    assert found[0].startswith("create ")
    if writer == "a map":
        assert "map file" in found
    else:
        assert sum(int(told.split()[2]) for told in found if told.startswith("write")) >= 4000


@pytest.mark.parametrize(("verdict", "left"), [("kill", 0), ("kill halfway", 500)])
def test_a_kill_at_a_write_of_1000_bytes_leaves_none_of_them_or_500(
    tmp_path: Path, verdict: Verdict, left: int
) -> None:
    root = tmp_path.resolve() / "run"

    def task() -> None:
        with (root / "file").open("wb", buffering=0) as file:
            file.write(bytes(range(10)))
            file.write(bytes(1000))

    def judge(operation: Operation) -> Verdict:
        return verdict if operation.size == 1000 else "go on"

    assert watched(root, task, judge).codes == [-9]
    assert (root / "file").read_bytes() == bytes(range(10)) + bytes(left)


def test_an_operation_that_is_refused_fails_with_that_error_and_the_sentence_is_kept(tmp_path: Path) -> None:
    root = tmp_path.resolve() / "run"
    judge: Judge = lambda operation: errno.ENOSPC if operation.kind == "write" else "go on"  # noqa: E731
    ended = watched(root, lambda: (root / "file").write_text("12345") and None, judge)
    assert ended.codes == [REFUSED]
    assert ended.sentence == "[Errno 28] No space left on device"
    assert (root / "file").read_bytes() == b""
