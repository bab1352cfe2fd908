"""What a killed compiler left is deleted before torch takes it for a library, and nothing else is."""

import logging
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from torch._inductor import codecache

from pixart.models import compiled, half_compiled
from pixart.models.compiled import compile_blocks
from pixart.models.half_compiled import clear_half_compiled, is_whole

# The header of an ELF file of 64 bits, code, and 3 sections in a table at its end.
ELF = struct.pack("<4s12x24xQ10xHH2x", b"\x7fELF", 5064, 64, 3) + bytes(5000) + bytes(192)
ELF = ELF[:4] + b"\x02\x01" + ELF[6:]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(codecache, "_HEADER_DIR", str(tmp_path / "headers"))
    monkeypatch.setattr(codecache, "_HEADER_LOCK_DIR", str(tmp_path / "headers" / "locks"))
    for folder in ("ab", "headers/locks"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


def test_of_5_libraries_the_4_that_are_cut_off_are_deleted_with_1_log_line(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["cempty.main", "ccut.main", "cheadless.main", "cinstructions", "cwhole.main"]
    empty, cut, headless, instructions, whole = (cache / "ab" / f"{name}.so" for name in names)
    empty.touch()
    cut.write_bytes(ELF[:-1])
    headless.write_bytes(bytes(4096) + ELF[4096:])  # a linker that was killed before it wrote the head
    instructions.write_bytes(bytes(4096))  # torch asks it which instructions there are
    whole.write_bytes(ELF)
    with caplog.at_level(logging.WARNING, logger=half_compiled.__name__):
        assert clear_half_compiled() == 4
        assert clear_half_compiled() == 0
    assert list((cache / "ab").iterdir()) == [whole]
    assert [record.message for record in caplog.records] == [
        f"compile=true: 4 half-compiled file(s) in {cache} are deleted and compiled again"
    ]


@pytest.mark.parametrize(("system", "whole"), [("linux", False), ("darwin", True)])
def test_what_is_no_elf_is_whole_where_libraries_are_of_another_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, whole: bool
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    (tmp_path / "other.so").write_bytes(b"\xcf\xfa\xed\xfe" + bytes(96))
    assert is_whole(tmp_path / "other.so") == whole


def test_of_4_headers_the_2_that_no_compiler_finished_are_deleted(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done, undone, empty, locked = (cache / "headers" / f"c{n}.h.gch" for n in ("done", "undone", "empty", "locked"))
    done.write_bytes(b"gpch+014" + bytes(99))
    for path in (undone, locked):
        path.write_bytes(b"gpcWrite" + bytes(99))
    empty.touch()
    with FileLock(cache / "headers" / "locks" / "clocked.lock"):
        assert clear_half_compiled() == 2
    assert [path.exists() for path in (done, undone, empty, locked)] == [True, False, False, True]
    assert caplog.messages == [
        f"compile=true: 2 half-compiled file(s) in {cache / 'headers'} are deleted and compiled again"
    ]


def test_1_that_another_process_is_compiling_is_left_to_it(cache: Path) -> None:
    half = cache / "ab" / "cabc.main.so"
    half.touch()
    (cache / "locks").mkdir()
    with FileLock(cache / "locks" / "cabc.lock"):
        assert clear_half_compiled() == 0
    assert clear_half_compiled() == 1
    assert not half.exists()


@given(length=st.integers(0, len(ELF) - 1))
def test_an_elf_of_any_length_below_its_own_is_not_whole(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    path = tmp_path_factory.mktemp("elf") / "some.so"
    path.write_bytes(ELF[:length])
    assert not is_whole(path)
    path.write_bytes(ELF)
    assert is_whole(path)
    assert is_whole(path.with_name("gone.so"))


def test_libraries_that_python_has_loaded_are_whole() -> None:
    loaded = {
        Path(module.__file__) for module in sys.modules.values() if str(getattr(module, "__file__", "")).endswith(".so")
    }
    assert len(loaded) > 5
    assert all(is_whole(library) for library in loaded)


def test_blocks_that_are_compiled_for_the_cpu_look_after_the_cache_first(small, monkeypatch) -> None:
    looked: list[int] = []
    monkeypatch.setattr(compiled, "clear_half_compiled", lambda: looked.append(1))
    monkeypatch.setattr(compiled, "missing_compiler", lambda _: None)
    compile_blocks(small(), "cpu", backend="eager")
    compile_blocks(small(), "cuda")
    assert looked == []
    compile_blocks(small(), "cpu")
    assert looked == [1]


_COMPILED = """
import sys, torch
from pathlib import Path
from pixart.models.half_compiled import clear_half_compiled
def twice(x): return x.sin() * 2
clear_half_compiled()
assert torch.equal(torch.compile(twice)(torch.ones(8)), twice(torch.ones(8)))
"""


@pytest.mark.slow
@pytest.mark.skipif(compiled.missing_compiler("cpu") is not None, reason="needs a C++ compiler")
def test_torch_compiles_anew_what_was_cut_off_in_its_own_cache(cache: Path) -> None:
    run = [sys.executable, "-c", _COMPILED]
    subprocess.run(run, check=True)
    libraries = list(cache.glob("*/*.so"))
    assert libraries
    for library in libraries:
        library.write_bytes(b"")
    assert subprocess.run(
        [*run[:2], _COMPILED.replace("clear_half_compiled()\nassert", "assert")], check=False
    ).returncode
    subprocess.run(run, check=True)
    assert all(is_whole(library) for library in libraries)
