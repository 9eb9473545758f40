"""The structured writer, and the library of functions that is written with it."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest

from ferrum_numba import Signature, kernels
from ferrum_numba.emulator import Program, native
from ferrum_numba.emulator.checks.watch import Watch
from ferrum_numba.emulator.compiler import machine
from ferrum_numba.emulator.host import Host
from ferrum_numba.emulator.library import Library, write
from ferrum_numba.emulator.parse import parse_entry
from ferrum_numba.emulator.routine import VECTOR, Routine
from ferrum_numba.emulator.translate import Module, threads_of
from tests.emulator.harness import entry


def written() -> Routine:
    """i32 (values, mask, limit): of the lanes of a mask whose value is above a limit, the sum of
    the numbers of steps that halving takes the value to 0; -1 for no lanes, and for a sum above 99.
    """
    r = Routine(Library(Host.this()), "probe")
    place, mask, limit = r.takes("ptr", "i32", "i32")
    r.ret_if(r.compare("icmp eq", mask, 0), r.constant("i32", -1))
    values = r.spread(r.load("i32", 32, place, 0, 4))
    lanes = r.each_lane(mask, r.constant("i32", 0))
    with lanes as (lane, total):
        value = values(lane)
        lanes.next_if(r.compare("icmp ule", value, limit), total)
        halving = r.loop(value, r.constant("i32", 0))
        with halving as (left, steps):
            halving.leave(r.compare("icmp eq", left, 0), steps)
            halving.again(r.op("lshr", left, 1), r.op("add", steps, 1))
        lanes.next(r.op("add", total, halving.results[0]))
    (total,) = lanes.results
    with r.when(r.compare("icmp ugt", total, 99)) as many:
        many.give(r.constant("i32", -1))
    r.ret(many.otherwise(total))
    return r


def test_control_flow() -> None:
    routine = written()
    module = llvm.parse_assembly(routine.text() + routine.library.text())
    module.verify()
    engine = llvm.create_mcjit_compiler(module, machine(Host.this()))
    engine.finalize_object()
    prototype = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32)
    call = prototype(engine.get_function_address("probe"))
    random = np.random.default_rng(0)
    for mask in [0, 1, 1 << 31, 0xFFFFFFFF, *random.integers(0, 1 << 32, 20).tolist()]:
        values = random.integers(0, 1 << random.integers(1, 20), 32, np.uint32)
        chosen = [v for i, v in enumerate(values.tolist()) if mask >> i & 1 and v > 100]
        total = sum(v.bit_length() for v in chosen)
        expected = total if mask and total <= 99 else -1
        assert call(values.ctypes.data, mask, 100) == expected, (mask, values)


def test_a_function_is_compiled_once_for_a_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names: list[str] = []

    def writes(name: str, host: Host) -> tuple[str, list[str]]:
        names.append(name)
        return write(name, host)

    monkeypatch.setenv("FERRUM_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(native, "write", writes)
    monkeypatch.setattr(native, "_pieces", {})
    load = "mad.wide.u32 %q1, %t0, 4, %q0; ld.global.b32 %t1, [%q1];"
    Program.compile(entry(1, load), "k")
    assert names == ["load_global_32"]
    Program.compile(entry(1, f"{load} st.global.b32 [%q1], %t1;"), "k")
    assert names == ["load_global_32", "store_global_32"]
    monkeypatch.setattr(native, "_pieces", {})  # as in another process
    Program.compile(entry(1, f"{load} add.u32 %t1, %t1, 1; st.global.b32 [%q1], %t1;"), "k")
    assert len(names) == 2


def test_a_function_says_which_others_it_calls() -> None:
    text, calls = write("copy_8", Host.this())
    assert calls == ["load_global_64", "store_shared_64"]
    assert f"declare void @store_shared_64(ptr, {VECTOR}, <32 x i64>, i32)" in text


def types(text: str, word: str) -> Iterator[tuple[str, str]]:
    """Names of the functions that a module in IR defines or declares, with their types."""
    for result, name, arguments in re.findall(rf"^{word} (.+?) @(\w+)\((.*?)\)", text, re.M):
        yield name, f"{result} ({re.sub(r' %[^,]*', '', arguments)})"


@pytest.mark.parametrize("fields", [{"kernel": "w4a16_gptq_gemm_wgmma", "BLOCK_N": 64},
                                    {"kernel": "attention_prefill", "target": "sm_90a"},
                                    {"kernel": "w4a16_gptq_gemm_typed"}])  # fmt: skip
def test_calls_have_the_types_of_what_they_call(fields: dict[str, Any]) -> None:
    """Nobody else compares them: each function is compiled by itself."""
    build = kernels.builds(dtype="float16", **fields)[0]
    signature, host = Signature.from_ptx(build.text), Host.this()
    body = parse_entry(build.text, signature.entry)
    watch = Watch(frozenset({"init", "race", "nan"}), body, threads_of(signature))
    module = Module(body, signature, host, False, watch)
    todo, texts = list(module.library.used), [module.text]
    defined: dict[str, str] = {}
    for name in todo:
        text, calls = write(name, host)
        todo += [other for other in calls if other not in todo]
        texts.append(text)
        defined.update(types(text, "define"))
    for name, its in (found for text in texts for found in types(text, "declare")):
        assert its == defined.get(name, its), name
    assert {*todo} <= {*defined}
