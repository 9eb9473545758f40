"""A kernel that hits memory which is not there says so, and the process ends by the signal."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.cli.commands import run_python
from tests.emulator.harness import entry

pytestmark = pytest.mark.skipif(os.name != "posix", reason="no signals here")

PROGRAM = """import sys
import numpy as np
import ferrum_numba as fe
{before}
device = fe.open_device("cpu", threads={threads})
kernel = device.load_module(sys.argv[1]).get_kernel()
kernel.launch(fe.LaunchConfig((3, 2), 32), np.zeros(4, np.uint32))
"""
# The last CTA alone goes astray.
WILD = """mov.u32 %t1, %ctaid.x; mov.u32 %t2, %ctaid.y; setp.eq.u32 %p1, %t1, 2;
setp.eq.and.u32 %p1, %t2, 1, %p1; mov.u64 %q1, 64; @%p1 st.global.b32 [%q1], %t0;"""


def end(tmp_path: Path, threads: int, before: str = "") -> tuple[int, str]:
    (tmp_path / "wild.ptx").write_text(entry(1, WILD))
    program = PROGRAM.format(threads=threads, before=before)
    done = run_python("-c", program, str(tmp_path / "wild.ptx"))
    return done.returncode, done.stderr


@pytest.mark.parametrize("threads", [1, 3])
def test_a_wild_store_names_kernel_and_cta(tmp_path: Path, threads: int) -> None:
    code, said = end(tmp_path, threads)
    assert code == -signal.SIGSEGV
    (line,) = [line for line in said.splitlines() if line]
    assert line.startswith("ferrum_numba: kernel k, CTA (2, 1, 0), hit memory that is not there")
    assert 'checks=("memory",)' in line


def test_a_handler_that_was_there_before_comes_next(tmp_path: Path) -> None:
    code, said = end(tmp_path, 1, "import faulthandler; faulthandler.enable()")
    assert code == -signal.SIGSEGV
    assert said.index("ferrum_numba: kernel k") < said.index("Fatal Python error")


def test_faults_of_others_are_not_ours() -> None:
    program = "import ctypes, ferrum_numba.emulator.faults as f; f.faults(); ctypes.string_at(64)"
    done = run_python("-c", program)
    assert done.returncode == -signal.SIGSEGV
    assert "ferrum_numba" not in done.stderr


def test_there_is_one_handler_however_many_threads_ask_first() -> None:
    program = """import threading
from ferrum_numba.emulator.faults import faults
found, start = [], threading.Barrier(8)
def ask():
    start.wait()
    found.append(faults())
threads = [threading.Thread(target=ask) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(set(map(id, found))))"""
    done = run_python("-c", program)
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr


def test_threads_that_have_ended_take_no_name_from_others() -> None:
    program = """import ctypes, threading
from ferrum_numba.emulator.faults import faults
from ferrum_numba.emulator.layout import State
def use():
    with faults().named(b"other", State()):
        pass
def run(count):
    for _ in range(count):
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
run(1100)
with faults().named(b"k", State()):
    run(1)
    ctypes.string_at(64)"""
    done = run_python("-c", program)
    assert done.returncode == -signal.SIGSEGV
    assert "ferrum_numba: kernel k, CTA (0, 0, 0)" in done.stderr
