"""A line on standard error where a kernel that runs unchecked hits memory that is not there.

The process then ends as it would have, by the signal or by a handler that was there before.  The
handler is native code, which alone may run then: it writes, puts the handler before it back, and
returns to the instruction, which faults again.  Source: POSIX.1-2017, "signal concepts".
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import llvmlite.binding as llvm

from .host import Host
from .layout import State, state_offset

_ROWS = 1024  # threads at a time
_SIGNALS = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL")
_TEXTS = {
    "begin": "\nferrum_numba: kernel ",
    "cta": ", CTA (",
    "comma": ", ",
    "end": "), hit memory that is not there, or did what the CPU cannot: run it by"
    ' open_device("cpu", checks=("memory",)) or ferrum-numba sanitize, which names the access\n',
}


class _Row(ctypes.Structure):
    """A thread that runs native code. thread: as pthread_self() has it; 0: the row is free."""

    _fields_ = (
        ("thread", ctypes.c_uint64),
        ("state", ctypes.c_uint64),
        ("name", ctypes.c_char_p),
        ("length", ctypes.c_uint64),
    )


class Faults:
    """The handler, and the threads that it knows."""

    def __init__(self) -> None:
        self._table = (_Row * _ROWS)()
        self._free = list(self._table)  # views, by which the table is written
        self._before = (ctypes.c_void_p * 65)()  # handlers, by the number of the signal
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), Host.this().machine())
        module = llvm.parse_assembly(
            _handler(ctypes.addressof(self._table), ctypes.addressof(self._before))
        )
        self._engine.add_module(module)
        self._engine.finalize_object()
        place = ctypes.c_void_p(self._engine.get_function_address("handler"))
        put = ctypes.CDLL(None).signal
        put.restype, put.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
        for name in _SIGNALS:
            number = getattr(signal, name)
            self._before[number] = put(number, place)

    @contextmanager
    def named(self, name: bytes, state: State) -> Iterator[None]:
        """Block in which this thread runs a kernel; of more threads than rows some go unnamed."""
        try:
            row = self._free.pop()
        except IndexError:
            yield
            return
        row.name, row.length, row.state = name, len(name), ctypes.addressof(state)
        row.thread = threading.get_ident()
        try:
            yield
        finally:
            row.thread = 0
            self._free.append(row)


_making = threading.Lock()


def faults() -> Faults | None:
    """The handler of this process; None where it has no POSIX signals."""
    with _making:  # two of them would each take the other for the handler before
        return _made()


@cache
def _made() -> Faults | None:
    return Faults() if os.name == "posix" else None


def _handler(table: int, before: int) -> str:
    """IR of the handler, which calls nothing but what POSIX allows in one."""
    texts, puts = [], {}
    for name, text in _TEXTS.items():
        data = text.encode()
        content = "".join(f"\\{byte:02X}" for byte in data)
        texts.append(f'@{name}.text = internal constant [{len(data)} x i8] c"{content}"')
        puts[name] = f"  call i64 @write(i32 2, ptr @{name}.text, i64 {len(data)})"
    axes = []
    for axis in range(3):
        axes += [
            puts["cta" if axis == 0 else "comma"],
            f"  %at{axis} = getelementptr i8, ptr %state, i64 {state_offset('ctaid') + 4 * axis}",
            f"  %id{axis} = load i32, ptr %at{axis}, align 4",
            f"  call void @number(i32 %id{axis})",
        ]
    return "\n".join(
        [
            *texts,
            "declare i64 @write(i32, ptr, i64)",
            "declare i64 @pthread_self()",
            "declare ptr @signal(i32, ptr)",
            "define internal void @number(i32 %n) {",
            "begin:",
            "  %digits = alloca [16 x i8], align 16",
            "  br label %next",
            "next:",
            "  %left = phi i32 [ %n, %begin ], [ %rest, %next ]",
            "  %place = phi i64 [ 16, %begin ], [ %first, %next ]",
            "  %first = sub i64 %place, 1",
            "  %rest = udiv i32 %left, 10",
            "  %digit = urem i32 %left, 10",
            "  %byte = trunc i32 %digit to i8",
            "  %letter = add i8 %byte, 48",
            "  %to = getelementptr i8, ptr %digits, i64 %first",
            "  store i8 %letter, ptr %to, align 1",
            "  %over = icmp eq i32 %rest, 0",
            "  br i1 %over, label %end, label %next",
            "end:",
            "  %length = sub i64 16, %first",
            "  %written = call i64 @write(i32 2, ptr %to, i64 %length)",
            "  ret void",
            "}",
            "define void @handler(i32 %signal) {",
            "begin:",
            "  %self = call i64 @pthread_self()",
            f"  %table = inttoptr i64 {table} to ptr",
            "  br label %look",
            "look:",
            "  %i = phi i64 [ 0, %begin ], [ %more, %on ]",
            f"  %offset = mul i64 %i, {ctypes.sizeof(_Row)}",
            "  %row = getelementptr i8, ptr %table, i64 %offset",
            "  %thread = load i64, ptr %row, align 8",
            "  %found = icmp eq i64 %thread, %self",
            "  br i1 %found, label %tell, label %on",
            "on:",
            "  %more = add i64 %i, 1",
            f"  %end = icmp eq i64 %more, {_ROWS}",
            "  br i1 %end, label %leave, label %look",
            "tell:",
            "  %state.at = getelementptr i8, ptr %row, i64 8",
            "  %state = load ptr, ptr %state.at, align 8",
            "  %name.at = getelementptr i8, ptr %row, i64 16",
            "  %name = load ptr, ptr %name.at, align 8",
            "  %length.at = getelementptr i8, ptr %row, i64 24",
            "  %length = load i64, ptr %length.at, align 8",
            puts["begin"],
            "  call i64 @write(i32 2, ptr %name, i64 %length)",
            *axes,
            puts["end"],
            "  br label %leave",
            "leave:",
            f"  %handlers = inttoptr i64 {before} to ptr",
            "  %old.at = getelementptr ptr, ptr %handlers, i32 %signal",
            "  %old = load ptr, ptr %old.at, align 8",
            "  call ptr @signal(i32 %signal, ptr %old)",
            "  ret void",
            "}",
        ]
    )
