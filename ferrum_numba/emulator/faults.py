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

from .cache import Cache
from .host import Host
from .image import image
from .layout import State, state_offset
from .library import Library, family
from .native import closure

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
        host = Host.this()
        given = {
            "faultrows": ctypes.addressof(self._table),
            "faultsbefore": ctypes.addressof(self._before),
        }
        code = closure(("faulthandler",), host, Cache.of_user())
        self._image = image(code, host, given)
        place = ctypes.c_void_p(self._image.address("faulthandler"))
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


@family("faulthandler")
def _handler(library: Library, symbol: str) -> str:
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
            "@faultrows = external global i8",
            "@faultsbefore = external global i8",
            "declare i64 @write(i32, ptr, i64)",
            "declare i64 @pthread_self()",
            "declare ptr @signal(i32, ptr)",
            "define internal void @number(i32 %n) #0 {",
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
            f"define void @{symbol}(i32 %signal) #0 {{",
            "begin:",
            "  %self = call i64 @pthread_self()",
            "  br label %look",
            "look:",
            "  %i = phi i64 [ 0, %begin ], [ %more, %on ]",
            f"  %offset = mul i64 %i, {ctypes.sizeof(_Row)}",
            "  %row = getelementptr i8, ptr @faultrows, i64 %offset",
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
            "  %old.at = getelementptr ptr, ptr @faultsbefore, i32 %signal",
            "  %old = load ptr, ptr %old.at, align 8",
            "  call ptr @signal(i32 %signal, ptr %old)",
            "  ret void",
            "}",
        ]
    )
