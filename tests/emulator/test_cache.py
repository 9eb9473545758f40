"""The disk cache: what is kept, what is never used, and what may not make a compilation fail."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ferrum_numba.emulator import Job, Program, cache, native
from ferrum_numba.emulator.cache import Cache
from ferrum_numba.emulator.faults import faults
from ferrum_numba.emulator.host import Host, _processor
from ferrum_numba.emulator.native import key_of_code

from .harness import entry

KERNEL = entry(1, "add.u32 %t1, %t0, 41; st.global.b32 [%q0], %t1;")
FUNCTIONS = 1  # of the library that it calls: each has an entry
MACHINE = 1 if _processor() else 0  # what LLVM says of it


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for one test: the folder in which its entries will be."""
    faults()  # whose code belongs to the process
    monkeypatch.setenv("FERRUM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "_pieces", {})  # functions of the library that others compiled
    return tmp_path / "cache" / "cpu"


def result(program: Program, threads: int = 32) -> int:
    out = np.zeros(1, np.uint32)
    job = Job(
        grid=(1, 1, 1),
        block=(threads, 1, 1),
        shared_bytes=0,
        parameter_block=np.uint64(out.ctypes.data).tobytes(),
    )
    program.run(job)
    return int(out[0])


def test_the_second_time_comes_from_the_disk(directory: Path) -> None:
    first = Program.compile(KERNEL, "k")
    assert not first.cached
    assert result(first) == 41 + 31
    second = Program.compile(KERNEL, "k")
    assert second.cached
    assert result(second) == 41 + 31
    paths = list(directory.iterdir())
    assert len(paths) == 1 + FUNCTIONS
    if sys.platform != "win32":
        assert directory.stat().st_mode & 0o777 == 0o700
        assert all(path.stat().st_mode & 0o777 == 0o600 for path in paths)


def test_each_variant_has_an_entry_of_its_own(directory: Path) -> None:
    program = Program.compile(KERNEL, "k")
    assert result(program, threads=5) == 41 + 4
    assert len(list(directory.iterdir())) == 2 + FUNCTIONS
    again = Program.compile(KERNEL, "k")
    assert result(again, threads=5) == 41 + 4
    assert again.cached


def test_what_the_key_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    this = Host.this()
    old = Host.of("x86-64", {}, this.triple)
    keys = [
        key_of_code(*parts)
        for parts in [
            ("text", "k", this, ""),
            ("text ", "k", this, ""),
            ("text", "j", this, ""),
            ("text", "k", old, ""),
            ("text", "k", this, "masked"),
            ("textk", "", this, ""),
        ]
    ]
    monkeypatch.setattr(cache, "_sources", lambda: b"other sources")
    keys.append(key_of_code("text", "k", this, ""))
    monkeypatch.setattr(native, "compiler_version", lambda: "another LLVM")
    keys.append(key_of_code("text", "k", this, ""))
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "append"])
def test_a_damaged_entry_is_made_anew(
    directory: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Program.compile(KERNEL, "k")
    entries = {path: path.read_bytes() for path in directory.iterdir()}
    for path, whole in entries.items():
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        path.write_bytes(
            {"flip": flipped, "cut": whole[:-7], "empty": b"", "append": whole + b"\0"}[damage]
        )
    monkeypatch.setattr(native, "_pieces", {})  # as in another process
    program = Program.compile(KERNEL, "k")
    assert not program.cached
    assert result(program) == 41 + 31
    assert {path: path.read_bytes() for path in directory.iterdir()} == entries
    assert Program.compile(KERNEL, "k").cached


def test_an_entry_under_another_name_is_not_used(directory: Path) -> None:
    store = Cache(directory)
    store.store("a", b"content")
    (directory / "a.code").rename(directory / "b.code")
    assert store.load("b") is None


def test_a_directory_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a directory")
    monkeypatch.setenv("FERRUM_CACHE_DIR", str(tmp_path / "file"))
    for _ in range(2):
        program = Program.compile(KERNEL, "k")
        assert not program.cached
        assert result(program) == 41 + 31


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_a_directory_that_others_may_write_to_is_not_used(directory: Path) -> None:
    Program.compile(KERNEL, "k")
    directory.chmod(0o777)
    assert not Program.compile(KERNEL, "k").cached


def test_switched_off(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FERRUM_CACHE_DIR", "")
    assert Cache.of_user() is None
    assert not Program.compile(KERNEL, "k").cached
    assert not Program.compile(KERNEL, "k").cached
    assert not directory.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="XDG directories")
def test_where_it_lies_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FERRUM_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    for value, parent in (
        (str(tmp_path / "xdg"), tmp_path / "xdg"),
        ("relative", tmp_path / ".cache"),
        ("", tmp_path / ".cache"),
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        found = Cache.of_user()
        assert found is not None
        assert found.directory == parent / "ferrum_numba" / "cpu"


def test_the_least_recently_used_are_dropped(tmp_path: Path) -> None:
    store = Cache(tmp_path / "c", max_bytes=4 * (100 + 32))
    for age, key in enumerate("dcba"):
        store.store(key, bytes(100))
        os.utime(store.directory / f"{key}.code", (1e9 - age, 1e9 - age))
    assert store.load("a") is not None  # used now
    orphan = store.directory / "left-by-a-process-that-died"
    orphan.write_bytes(b"")
    os.utime(orphan, (1e9, 1e9))
    store.store("e", bytes(150))
    kept = sorted(p.stem for p in store.directory.iterdir())
    assert kept == ["a", "d", "e"]


def test_a_roomy_cache_is_seldom_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    make_room = Cache._make_room
    monkeypatch.setattr(
        Cache, "_make_room", lambda self, nbytes: looks.append(nbytes) or make_room(self, nbytes)
    )
    store = Cache(tmp_path / "c", max_bytes=200 * (100 + 32))
    for i in range(50):
        store.store(str(i), bytes(100))
    assert len(looks) <= 3
    for i in range(50, 400):
        store.store(str(i), bytes(100))
        if i % 50 == 0:
            sizes = [path.stat().st_size for path in store.directory.iterdir()]
            assert sum(sizes) <= store.max_bytes
    assert len(sizes) >= 150
    assert len(looks) <= 150


def test_many_writers_and_readers(tmp_path: Path) -> None:
    content = {key: key.encode() * 40_000 for key in "abc"}
    store = Cache(tmp_path / "c", max_bytes=100_000)

    def use(i: int) -> bool:
        key = "abc"[i % 3]
        store.store(key, content[key])
        return store.load("abc"[i // 3 % 3]) in (None, content["abc"[i // 3 % 3]])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(300)))


def test_many_processes(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "k.ptx").write_text(KERNEL)
    script = (
        "import sys; from pathlib import Path; from ferrum_numba.emulator import Program;"
        "Program.compile(Path(sys.argv[1]).read_text(), 'k')"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "k.ptx")]
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    running = [subprocess.Popen(command, env=environment) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert len(list(directory.iterdir())) == 1 + FUNCTIONS + MACHINE
    assert Program.compile(KERNEL, "k").cached
