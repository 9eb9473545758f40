"""Functions of the CUDA runtime that a kernel may call, and that the host carries out.

`vprintf` prints for each lane, `__assertfail` notes what the launch ends with.  Native code calls
back with the offsets of the call's parameters in the lanes' local memory.
Source: CUDA C++ Programming Guide, "Formatted Output", "Assertion"; PTX Writer's Guide to
Interoperability, "System Calls".
"""

from __future__ import annotations

import ctypes
import re
import struct
import sys
from typing import NamedTuple

from .layout import LANES, TID, Triple

# context, 1 + index of the instruction of a failed assertion or 0, mask of lanes, where the local
# memory of the first lane begins, bytes of a lane's, offsets of the first four parameters in it
CALLBACK = ctypes.CFUNCTYPE(
    None, *(ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32), *(ctypes.c_uint64,) * 6
)

_CONVERSION = re.compile(
    r"%(?P<flags>[-+ #0]*)(?P<width>\*|\d*)(?P<precision>(?:\.(?:\*|\d*))?)"
    r"(?P<length>hh|h|ll|l|j|z|t|L)?(?P<kind>[diuoxXcfFeEgGaAsp%])"
)
_LONG = ("l", "ll", "j", "z", "t")


class Failure(NamedTuple):
    """A failed assertion. number: 1 + the index of its instruction; thread: the first it failed in.

    threads: how many of the warp it failed in.
    """

    number: int
    thread: Triple
    threads: int
    message: str
    file: str
    line: int
    function: str

    def __str__(self) -> str:
        more = f" and {self.threads - 1} more of its warp" if self.threads > 1 else ""
        return (
            f"thread {self.thread}{more}: the assertion failed: {self.message}, "
            f"at {self.file}:{self.line}, in {self.function}"
        )


class HostCalls:
    """Functions of the host that a worker's native code calls.

    failure: the first assertion that failed.  error: what a call was broken off by, such as Ctrl-C;
    native code cannot pass it on.
    """

    def __init__(self, silent: bool) -> None:
        self._silent = silent
        self.failure: Failure | None = None
        self.error: BaseException | None = None
        self._callback = CALLBACK(self._called)
        self.address = ctypes.cast(self._callback, ctypes.c_void_p).value

    def _called(
        self, context: int, number: int, mask: int, local: int, step: int, *offsets: int
    ) -> None:
        try:
            lanes = [lane for lane in range(LANES) if mask >> lane & 1]
            places = [[context + local + lane * step + at for at in offsets] for lane in lanes]
            if not number:
                if not self._silent:
                    sys.stdout.write("".join(map(_printed, places)))
                    sys.stdout.flush()
            elif lanes and self.failure is None:
                self.failure = _failure(number, _thread(context, lanes[0]), len(lanes), places[0])
        except BaseException as error:
            self.error = error


def _thread(context: int, lane: int) -> Triple:
    x, y, z = (_number("<I", context + TID + 4 * (LANES * axis + lane)) for axis in range(3))
    return x, y, z


def _failure(number: int, thread: Triple, threads: int, places: list[int]) -> Failure:
    message, file, line, function = places
    text = [_text(_number("<Q", place)) for place in (message, file, function)]
    return Failure(number, thread, threads, text[0], text[1], _number("<I", line), text[2])


def _printed(places: list[int]) -> str:
    """The text of one lane."""
    values = _Values(_number("<Q", places[1]))
    return _CONVERSION.sub(values.show, _text(_number("<Q", places[0])))


class _Values:
    """The values of one lane's print: each lies at the next multiple of its size."""

    def __init__(self, address: int) -> None:
        self._next = address

    def show(self, found: re.Match[str]) -> str:
        """The next value, as a conversion of C's printf has it."""
        kind = found["kind"]
        if kind == "%":
            return "%"
        width, precision = (self._given(found[name]) for name in ("width", "precision"))
        layout = f"%{found['flags']}{width}{precision}"
        wide = found["length"] in _LONG
        if kind in "fFeEgG":
            return f"{layout}{kind}" % self._take("<d")
        if kind in "aA":
            text = float(self._take("<d")).hex()
            return f"{layout}s" % (text.upper() if kind == "A" else text)
        if kind == "s":
            return f"{layout}s" % _text(int(self._take("<Q")))
        if kind == "p":
            return f"{layout}s" % hex(int(self._take("<Q")))
        if kind == "c":
            return f"{layout}s" % chr(int(self._take("<I")) & 0xFF)
        signed = kind in "di"
        number = int(self._take(("<q" if wide else "<i") if signed else ("<Q" if wide else "<I")))
        text = f"{layout}{'d' if kind in 'diu' else kind}" % number
        return text.replace("0o", "0", 1) if kind == "o" else text

    def _given(self, text: str) -> str:
        return text.replace("*", str(self._take("<i"))) if "*" in text else text

    def _take(self, code: str) -> float:
        nbytes = struct.calcsize(code)
        place = -(-self._next // nbytes) * nbytes
        self._next = place + nbytes
        return _read(code, place)


def _read(code: str, address: int) -> float:
    value: float = struct.unpack(code, ctypes.string_at(address, struct.calcsize(code)))[0]
    return value


def _number(code: str, address: int) -> int:
    return int(_read(code, address))


def _text(address: int) -> str:
    """A C string; NULL is shown as C libraries do."""
    return ctypes.string_at(address).decode(errors="backslashreplace") if address else "(null)"
