"""Native code of the host: what takes several calls of the driver in one call from Python.

Loops are compiled by numba.  What the first launch of a process needs is LLVM IR, which compiles in
a fraction of the time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import CFUNCTYPE, c_int, c_int64, c_uint64, c_void_p
from functools import lru_cache
from typing import Any

import llvmlite.binding as llvm
from numba import cfunc, types
from numba.extending import intrinsic

from .. import launch_log as log
from ..observer import DECLINED, FULL
from . import driver

CODE = 0xFFFFFFFF  # of what `launcher` returns: the driver's code
FAILED_BITS = 32  # of what `loop` returns: the driver's code below, the launch's number above


def launcher() -> Callable[[int, int, int, int], int]:
    """Launches, and asks whether the stream is being captured: takes a LaunchRecord's row, and the
    stream's handle.

    Returns the driver's code of the launch, and above its 32 bits 1 where the stream is captured.
    """
    asked = _address(driver.library().cuStreamIsCapturing)
    return _launcher(_address(driver.launcher()), asked)


@lru_cache(maxsize=4)
def _launcher(launch: int, asked: int) -> Callable[[int, int, int, int], int]:
    # The default streams, up to 2, are asked by nobody: arrays of theirs are no graph's.
    code = f"""
        define i64 @launch(i64 %config, i64 %function, i64 %extra, i64 %stream) {{
          %status = alloca i32
          store i32 0, ptr %status
          %driver = inttoptr i64 {launch} to ptr
          %code = call i32 %driver(i64 %config, i64 %function, i64 0, i64 %extra)
          %named = icmp ugt i64 %stream, 2
          br i1 %named, label %ask, label %end
        ask:
          %capturing = inttoptr i64 {asked} to ptr
          %unused = call i32 %capturing(i64 %stream, ptr %status)
          br label %end
        end:
          %found = load i32, ptr %status
          %is = icmp ne i32 %found, 0
          %bit = zext i1 %is to i64
          %high = shl i64 %bit, 32
          %low = zext i32 %code to i64
          %both = or i64 %high, %low
          ret i64 %both
        }}"""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(code)
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    _kept.append(engine)
    return CFUNCTYPE(c_int64, *(c_void_p,) * 4)(engine.get_function_address("launch"))


def loop() -> Callable[[int, int], int]:
    """Launches a table of launch records: takes its address and how many rows it has.

    A row is three words, a LaunchRecord's.  Returns -1, or number << 32 | code of the launch that
    the driver refused, after which none was launched.
    """
    return _loop(_address(driver.launcher()))


@lru_cache(maxsize=4)
def _loop(launcher: int) -> Callable[[int, int], int]:
    launch = _launch(launcher)

    def issue(table, count):  # type: ignore[no-untyped-def]
        for i in range(count):
            code = launch(table[3 * i], table[3 * i + 1], 0, table[3 * i + 2])
            if code != 0:
                return (i << FAILED_BITS) | code
        return -1

    compiled = cfunc(types.int64(types.CPointer(types.uint64), types.int64))(issue)
    _kept.append(compiled)
    return CFUNCTYPE(c_int64, c_void_p, c_int64)(compiled.address)


def issuer() -> Callable[[int], int]:
    """Issues the launches of a FastPath and writes a row for each; takes its address.

    The rows are written before the first launch, their numbers last.  Any number of threads may
    call it at a time.  Returns 0 where launches were issued, and else what launch_log.py says.
    """
    asked = _address(driver.library().cuStreamIsCapturing)
    return _issuer(_address(driver.launcher()), asked)


@lru_cache(maxsize=4)
def _issuer(launcher: int, asked: int) -> Callable[[int], int]:
    launch = _launch(launcher)
    capturing = CFUNCTYPE(c_int, c_uint64, c_uint64)(asked)
    clock = CFUNCTYPE(c_int, c_uint64, c_uint64)(_address(ctypes.CDLL(None).clock_gettime))

    def issue(address):  # type: ignore[no-untyped-def]
        path, steps = _words(address), address + 8 * log.STEPS
        count, rows, stream = path[log.COUNT], path[log.ROWS], path[log.STREAM]
        place = _words(path[log.HEAD])[0]
        if place == 0:
            return FULL
        for i in range(rows):
            if _words(_words(steps + i * 8 * log.STEP_WORDS)[log.OTHERS])[0] <= 0:
                return DECLINED
        # The default stream, which 0 and 1 are, is never captured.
        if stream > 1 and (capturing(stream, address + 8 * log.CAPTURING) or path[log.CAPTURING]):
            return DECLINED
        segment = _words(place)
        first = segment[log.NEXT]
        while first + count <= segment[log.END] and not _swap(segment, first, first + count):
            first = segment[log.NEXT]
        if first + count > segment[log.END]:
            return FULL
        at = 0.0
        for i in range(rows):
            step = _words(steps + i * 8 * log.STEP_WORDS)
            where = segment[log.PLACE] + (first + i) * 8 * log.ROW_WORDS
            row = _words(where)
            if i == 0:
                clock(1, where)  # CLOCK_MONOTONIC, as time.perf_counter: seconds and nanoseconds
                at = row[0] + row[1] * 1e-9 - _floats(place)[log.START]
            _floats(where)[log.AT] = at
            row[log.ROW_STREAM] = stream
            row[log.CALL] = step[log.STEP_CALL]
            _words(step[log.OTHERS])[0] -= 1
            _add(where + 8 * log.NUMBER, first + i + 1)  # publish: 0 is an incomplete row
        _add(place + 8 * log.DONE, count)
        for i in range(path[log.LAUNCHES]):
            step = _words(steps + i * 8 * log.STEP_WORDS)
            code = launch(step[log.CONFIG], step[log.FUNCTION], 0, step[log.EXTRA])
            if code != 0:
                return ((first + 1) << log.NUMBER_BIT) | (i << log.STEP_BIT) | code
        return 0 if path[log.LAUNCHES] > 0 else (first + 1) << log.NUMBER_BIT

    compiled = cfunc(types.int64(types.int64))(issue)
    _kept.append(compiled)
    return CFUNCTYPE(c_int64, c_void_p)(compiled.address)


@lru_cache(maxsize=1)
def marker() -> int:
    """The address of a function that sets the 64-bit word it is given to 1.

    The driver calls it from threads of its own, so that it must not need the interpreter.
    """

    def mark(word):  # type: ignore[no-untyped-def]
        word[0] = 1

    compiled = cfunc(types.void(types.CPointer(types.uint64)))(mark)
    _kept.append(compiled)
    return int(compiled.address)


def _address(function: Any) -> int:
    """The address of a function of a library, or of a callback."""
    return ctypes.cast(function, c_void_p).value or 0


def _launch(address: int) -> Any:
    # Pointers go as plain words, which have the same place in every calling convention of the
    # platforms that the driver runs on.
    return CFUNCTYPE(c_int, c_uint64, c_uint64, c_uint64, c_uint64)(address)


@intrinsic
def _words(typing, address):  # type: ignore[no-untyped-def]
    """Memory at an address, as 64-bit words."""
    return _pointer(types.CPointer(types.int64), address)


@intrinsic
def _floats(typing, address):  # type: ignore[no-untyped-def]
    """Memory at an address, as float64."""
    return _pointer(types.CPointer(types.float64), address)


def _pointer(pointer: Any, address: Any) -> Any:
    def generate(context, builder, signature, given):  # type: ignore[no-untyped-def]
        return builder.inttoptr(given[0], context.get_value_type(pointer))

    return pointer(address), generate


@intrinsic
def _swap(typing, words, old, new):  # type: ignore[no-untyped-def]
    """Atomic compare-and-swap; returns whether it swapped."""

    def generate(context, builder, signature, given):  # type: ignore[no-untyped-def]
        found = builder.cmpxchg(*given, "seq_cst", "seq_cst")
        return builder.extract_value(found, 1)

    return types.boolean(words, types.int64, types.int64), generate


@intrinsic
def _add(typing, address, count):  # type: ignore[no-untyped-def]
    """Add to the word at an address, at once for all threads."""

    def generate(context, builder, signature, given):  # type: ignore[no-untyped-def]
        word = builder.inttoptr(given[0], context.get_value_type(types.CPointer(types.int64)))
        return builder.atomic_rmw("add", word, given[1], "seq_cst")

    return types.int64(types.int64, types.int64), generate


_kept: list[object] = []  # compiled code, in memory
