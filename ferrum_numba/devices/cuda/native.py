"""Native code of the host: what takes several calls of the driver in one call from Python.

Loops are compiled by numba.  What the first launch of a process needs is LLVM IR, which compiles in
a fraction of the time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import CFUNCTYPE, PYFUNCTYPE, c_char_p, c_int, c_int64, c_void_p, py_object, pythonapi
from functools import lru_cache
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import cfunc, types
from numba.extending import intrinsic

from . import driver

CODE = 0xFFFFFFFF  # of what `launcher` returns: the driver's code
_FASTCALL = 0x80  # METH_FASTCALL
FAILED_BITS = 32  # of what `loop` returns: the driver's code below, the launch's number above


def launcher(place: int) -> Callable[[int, int, int, int], int]:
    """Launches, and asks whether the stream is being captured: takes a LaunchRecord's row, and the
    stream's handle; 0 in its place asks nothing.

    place: a Launcher's.  Returns the code of the launch, and above its 32 bits 1 where the stream
    is captured.
    """
    return _launcher(place, address_of(driver.library().cuStreamIsCapturing))


@lru_cache(maxsize=4)
def _launcher(place: int, asked: int) -> Callable[[int, int, int, int], int]:
    # The default streams, up to 2, are asked by nobody: arrays of theirs are no graph's.
    # Others run meanwhile: a launch waits where the stream's queue is full.
    code = f"""
        define ptr @launch(ptr %self, ptr %given, i64 %count) {{
          %status = alloca i32
          store i32 0, ptr %status
          {_taken("config", 0)}
          {_taken("function", 1)}
          {_taken("extra", 2)}
          {_taken("stream", 3)}
          %thread = call ptr {_python("PyEval_SaveThread")}()
          %driver = load atomic ptr, ptr {_at(place)} monotonic, align 8
          %code = call i32 %driver(i64 %config, i64 %function, i64 0, i64 %extra)
          %named = icmp ugt i64 %stream, 2
          br i1 %named, label %ask, label %end
        ask:
          %unused = call i32 {_at(asked)}(i64 %stream, ptr %status)
          br label %end
        end:
          call void {_python("PyEval_RestoreThread")}(ptr %thread)
          %found = load i32, ptr %status
          %is = icmp ne i32 %found, 0
          %bit = zext i1 %is to i64
          %high = shl i64 %bit, 32
          %low = zext i32 %code to i64
          %both = or i64 %high, %low
          %result = call ptr {_python("PyLong_FromLongLong")}(i64 %both)
          ret ptr %result
        }}"""
    function: Callable[[int, int, int, int], int] = _builtin("launch", code)
    return function


@lru_cache(maxsize=1)
def place_of() -> Callable[[object, int, int], int]:
    """Reads where a tensor lies: takes it, and function and place of a `dlpack.Likeness`.

    Returns its address; -1 where it is not like that, or its library refuses.
    """
    code = f"""
        define ptr @place_of(ptr %self, ptr %given, i64 %count) {{
          %tensor = alloca [6 x i64]  ; DLTensor
          %value = load ptr, ptr %given
          {_taken("function", 1)}
          {_taken("like", 2)}
          %fill = inttoptr i64 %function to ptr
          %code = call i32 %fill(ptr %value, ptr %tensor)
          %failed = icmp ne i32 %code, 0
          br i1 %failed, label %refused, label %filled
        refused:
          call void {_python("PyErr_Clear")}()
          br label %other
        filled:
          %likeness = inttoptr i64 %like to ptr
          {_word("device", "%tensor", 1)}
          {_word("kind", "%tensor", 2)}
          {_word("extents", "%tensor", 3)}
          {_word("strides", "%tensor", 4)}
          {_word("like.device", "%likeness", 0)}
          {_word("like.kind", "%likeness", 1)}
          %same.device = icmp eq i64 %device, %like.device
          %same.kind = icmp eq i64 %kind, %like.kind
          %same.head = and i1 %same.device, %same.kind
          br i1 %same.head, label %head, label %other
        head:
          %rank = and i64 %kind, 4294967295
          %at.extents = inttoptr i64 %extents to ptr
          %at.strides = inttoptr i64 %strides to ptr
          %like.extents = getelementptr i64, ptr %likeness, i64 2
          %like.strides = getelementptr i64, ptr %like.extents, i64 %rank
          br label %each
        each:
          %i = phi i64 [ 0, %head ], [ %next, %same ]
          %more = icmp ult i64 %i, %rank
          br i1 %more, label %one, label %end
        one:
          {_word("extent", "%at.extents", "%i")}
          {_word("stride", "%at.strides", "%i")}
          {_word("like.extent", "%like.extents", "%i")}
          {_word("like.stride", "%like.strides", "%i")}
          %same.extent = icmp eq i64 %extent, %like.extent
          %same.stride = icmp eq i64 %stride, %like.stride
          %single = icmp eq i64 %extent, 1  ; whose stride says nothing
          %any.stride = or i1 %same.stride, %single
          %same.both = and i1 %same.extent, %any.stride
          br i1 %same.both, label %same, label %other
        same:
          %next = add i64 %i, 1
          br label %each
        end:
          {_word("data", "%tensor", 0)}
          {_word("offset", "%tensor", 5)}
          %address = add i64 %data, %offset
          br label %return
        other:
          br label %return
        return:
          %found = phi i64 [ %address, %end ], [ -1, %other ]
          %result = call ptr {_python("PyLong_FromLongLong")}(i64 %found)
          ret ptr %result
        }}"""
    function: Callable[[object, int, int], int] = _builtin("place_of", code)
    return function


@lru_cache(maxsize=1)
def identical() -> Callable[[tuple[Any, ...], tuple[Any, ...]], bool]:
    """True if two tuples hold the same objects, so that their types need not be compared."""
    code = f"""
        define ptr @identical(ptr %self, ptr %given, i64 %count) {{
          %one = load ptr, ptr %given
          %at.other = getelementptr ptr, ptr %given, i64 1
          %other = load ptr, ptr %at.other
          %size = call i64 {_python("PyTuple_Size")}(ptr %one)
          %size.other = call i64 {_python("PyTuple_Size")}(ptr %other)
          %as.long = icmp eq i64 %size, %size.other
          br i1 %as.long, label %each, label %end
        each:
          %i = phi i64 [ 0, %0 ], [ %next, %same ]
          %more = icmp slt i64 %i, %size
          br i1 %more, label %compare, label %end
        compare:
          %a = call ptr {_python("PyTuple_GetItem")}(ptr %one, i64 %i)
          %b = call ptr {_python("PyTuple_GetItem")}(ptr %other, i64 %i)
          %is = icmp eq ptr %a, %b
          br i1 %is, label %same, label %end
        same:
          %next = add i64 %i, 1
          br label %each
        end:
          %found = phi i64 [ 0, %0 ], [ 1, %each ], [ 0, %compare ]
          %result = call ptr {_python("PyBool_FromLong")}(i64 %found)
          ret ptr %result
        }}"""
    function: Callable[[tuple[Any, ...], tuple[Any, ...]], bool] = _builtin("identical", code)
    return function


def _word(name: str, array: str, number: int | str) -> str:
    """LLVM IR that loads a 64-bit word of an array."""
    return f"""%at.{name}.word = getelementptr i64, ptr {array}, i64 {number}
          %{name} = load i64, ptr %at.{name}.word"""


def _builtin(name: str, code: str) -> Any:
    """A function of LLVM IR as a builtin one of Python, which ctypes takes a microsecond to call.

    It is given what CPython gives a function of METH_FASTCALL.
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(code), machine)
    engine.finalize_object()
    method = _Method(name.encode(), engine.get_function_address(name), _FASTCALL, None)
    kept.extend((engine, method))
    make = PYFUNCTYPE(py_object, c_void_p, c_void_p, c_void_p)(("PyCFunction_NewEx", pythonapi))
    return make(ctypes.addressof(method), None, None)


class _Method(ctypes.Structure):
    """PyMethodDef."""

    _fields_ = (("name", c_char_p), ("code", c_void_p), ("flags", c_int), ("doc", c_char_p))


def _taken(name: str, number: int) -> str:
    """LLVM IR that takes an integer out of the arguments."""
    return f"""%at.{name} = getelementptr ptr, ptr %given, i64 {number}
          %object.{name} = load ptr, ptr %at.{name}
          %{name} = call i64 {_python("PyLong_AsUnsignedLongLong")}(ptr %object.{name})"""


def _python(name: str) -> str:
    """A function of CPython, in LLVM IR."""
    return _at(address_of(getattr(pythonapi, name)))


def _at(address: int) -> str:
    """An address as a pointer, in LLVM IR."""
    return f"inttoptr (i64 {address} to ptr)"


@lru_cache(maxsize=4)
def loop(place: int) -> Callable[[int, int], int]:
    """Launches a table of launch records: takes its address and how many rows it has.

    place: a Launcher's.  A row is three words, a LaunchRecord's.  Returns -1, or number << 32 |
    code of the launch that the launcher refused, after which none was launched.
    """

    def issue(table, count):  # type: ignore[no-untyped-def]
        for i in range(count):
            code = _launched(place, table[3 * i], table[3 * i + 1], 0, table[3 * i + 2])
            if code != 0:
                return (i << FAILED_BITS) | code
        return -1

    compiled = cfunc(types.int64(types.CPointer(types.uint64), types.int64))(issue)
    kept.append(compiled)
    return CFUNCTYPE(c_int64, c_void_p, c_int64)(compiled.address)


@lru_cache(maxsize=1)
def marker() -> int:
    """The address of a function that sets the 64-bit word it is given to 1.

    The driver calls it from threads of its own, so that it must not need the interpreter.
    """

    def mark(word):  # type: ignore[no-untyped-def]
        word[0] = 1

    compiled = cfunc(types.void(types.CPointer(types.uint64)))(mark)
    kept.append(compiled)
    return int(compiled.address)


def address_of(function: Any) -> int:
    """The address of a function of a library, or of a callback."""
    return ctypes.cast(function, c_void_p).value or 0


@intrinsic
def _launched(typing, place, config, function, params, extra):  # type: ignore[no-untyped-def]
    """Call the function whose address lies at a place as cuLaunchKernelEx."""

    # Pointers go as plain words, which have the same place in every calling convention of the
    # platforms that the driver runs on.
    def generate(context, builder, signature, given):  # type: ignore[no-untyped-def]
        word, code = ir.IntType(64), ir.IntType(32)
        kind = ir.FunctionType(code, [word] * 4)
        there = builder.inttoptr(given[0], kind.as_pointer().as_pointer())
        called = builder.load_atomic(there, "monotonic", 8)
        return builder.call(called, given[1:])

    return types.int32(types.int64, *(types.uint64,) * 4), generate


@intrinsic
def words(typing, address):  # type: ignore[no-untyped-def]
    """Memory at an address, as 64-bit words."""
    return _pointer(types.CPointer(types.int64), address)


@intrinsic
def floats(typing, address):  # type: ignore[no-untyped-def]
    """Memory at an address, as float64."""
    return _pointer(types.CPointer(types.float64), address)


def _pointer(pointer: Any, address: Any) -> Any:
    def generate(context, builder, signature, given):  # type: ignore[no-untyped-def]
        return builder.inttoptr(given[0], context.get_value_type(pointer))

    return pointer(address), generate


@intrinsic
def swap(typing, address, old, new):  # type: ignore[no-untyped-def]
    """Atomic compare-and-swap of the word at an address; returns whether it swapped."""

    def generate(context, builder, signature, given):  # type: ignore[no-untyped-def]
        word = builder.inttoptr(given[0], context.get_value_type(types.CPointer(types.int64)))
        found = builder.cmpxchg(word, *given[1:], "seq_cst", "seq_cst")
        return builder.extract_value(found, 1)

    return types.boolean(types.int64, types.int64, types.int64), generate


@intrinsic
def add(typing, address, count):  # type: ignore[no-untyped-def]
    """Add to the word at an address, at once for all threads."""

    def generate(context, builder, signature, given):  # type: ignore[no-untyped-def]
        word = builder.inttoptr(given[0], context.get_value_type(types.CPointer(types.int64)))
        return builder.atomic_rmw("add", word, given[1], "seq_cst")

    return types.int64(types.int64, types.int64), generate


kept: list[object] = []  # compiled code, in memory
