"""Object code in memory: laid here or by LLVM it computes alike; what is cached needs no LLVM."""

from __future__ import annotations

import ctypes
import platform
import sys
from pathlib import Path

import numpy as np
import pytest

from ferrum_numba.emulator import Job, Program, image, native
from ferrum_numba.emulator.compiler import object_of
from ferrum_numba.emulator.host import Host
from tests.cli.commands import run_python

from .harness import entry

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="laid by LLVM here"
)
KERNEL = entry(1, "cvt.rn.f32.u32 %t1, %t0; ex2.approx.f32 %t1, %t1; st.global.b32 [%q0], %t1;")
CALLS = """
@table = internal constant [4 x i32] [i32 3, i32 5, i32 7, i32 9]
@outside = external global i32
declare i32 @double(i32)
declare i64 @strlen(ptr)
@text = internal constant [6 x i8] c"hello\\00"
define i32 @run(i32 %i) nounwind {
  %at = getelementptr [4 x i32], ptr @table, i32 0, i32 %i
  %value = load i32, ptr %at
  %twice = call i32 @double(i32 %value)
  %length = call i64 @strlen(ptr @text)
  %short = trunc i64 %length to i32
  %given = load i32, ptr @outside
  %some = add i32 %twice, %short
  %all = add i32 %some, %given
  ret i32 %all
}"""
DOUBLE = "define i32 @double(i32 %i) nounwind {\n  %d = shl i32 %i, 1\n  ret i32 %d\n}"


def test_files_refer_to_each_other_to_the_process_and_to_what_is_given() -> None:
    host, outside = Host.this(), ctypes.c_int32(1000)
    objects = [object_of(text, host) for text in (CALLS, DOUBLE)]
    laid = image.image(objects, host, {"outside": ctypes.addressof(outside)})
    assert type(laid).__module__ == image.__name__
    run = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int32)(laid.address("run"))
    assert [run(i) for i in range(4)] == [1000 + 5 + 2 * v for v in (3, 5, 7, 9)]
    outside.value = 0
    assert run(0) == 11


@pytest.mark.parametrize(
    "text",
    [
        "@v = internal global i32 3\ndefine ptr @run() nounwind { ret ptr @v }",  # written to
        "define void @run() uwtable { ret void }",  # how its frames are unwound
    ],
)
def test_code_that_needs_more_is_left_to_llvm(text: str) -> None:
    host = Host.this()
    laid = image.image([object_of(text, host)], host)
    assert type(laid).__module__ != image.__name__
    assert laid.address("run")


def test_a_name_that_nobody_has() -> None:
    host = Host.this()
    objects = [object_of(CALLS, host)]
    with pytest.raises(AttributeError, match="double"):
        image.image(objects, host, {"outside": 1})


def result(program: Program) -> float:
    out = np.zeros(1, np.float32)
    parameters = np.uint64(out.ctypes.data).tobytes()
    job = Job(grid=(1, 1, 1), block=(32, 1, 1), shared_bytes=0, parameter_block=parameters)
    program.run(job)
    return float(out[0])


def test_llvm_lays_what_is_not_laid_here(monkeypatch: pytest.MonkeyPatch) -> None:
    own = result(Program.compile(KERNEL, "k"))
    assert own == 2.0**31
    monkeypatch.setattr(image._File, "read", lambda content: None)
    monkeypatch.setattr(native, "image", image.image)
    program = Program.compile(KERNEL, "k")
    assert type(program._functions[False]._image).__module__ != image.__name__
    assert result(program) == own


def test_code_from_the_cache_needs_neither_llvm_nor_the_translator(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FERRUM_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "k.ptx").write_text(KERNEL)
    program = """import sys
import numpy as np
import ferrum_numba as fe
out = np.zeros(1, np.float32)
device = fe.open_device("cpu", threads=1)
device.load_module(sys.argv[1]).get_kernel().launch(fe.LaunchConfig(1, 32), out)
loaded = ["llvmlite.binding", "ferrum_numba.emulator.translate", "ferrum_numba.emulator.checks"]
print(out[0] == 2.0 ** 31, [name in sys.modules for name in loaded])"""
    said = [run_python("-c", program, str(tmp_path / "k.ptx")).stdout for _ in range(2)]
    assert said == ["True [True, True, False]\n", "True [False, False, False]\n"]
    for path in (tmp_path / "cache" / "cpu").iterdir():  # one that has been dropped is made anew
        path.unlink()
        assert run_python("-c", program, str(tmp_path / "k.ptx")).stdout.startswith("True")
