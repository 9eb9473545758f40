"""What has to be native code on the host, compiled by numba: the loop over a plan's launches.

The only file besides cuda.py that imports numba.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import CFUNCTYPE, c_int, c_int64, c_uint64, c_void_p
from functools import lru_cache

from numba import cfunc, types

from . import driver

FAILED_BITS = 32  # of what `loop` returns: the driver's code below, the launch's number above


@lru_cache(maxsize=1)
def loop() -> Callable[[int, int], int]:
    """Launches a table of packets: takes its address and how many rows it has.

    A row is three words, a Packet's.  Returns -1, or number << 32 | code of the launch that the
    driver refused, after which none was launched.
    """
    address = ctypes.cast(driver.launcher(), c_void_p).value  # type: ignore[arg-type]
    # Pointers go as plain words, which have the same place in every calling convention of the
    # platforms that the driver runs on.
    launch = CFUNCTYPE(c_int, c_uint64, c_uint64, c_uint64, c_uint64)(address or 0)

    def issue(table, count):  # type: ignore[no-untyped-def]
        for i in range(count):
            code = launch(table[3 * i], table[3 * i + 1], 0, table[3 * i + 2])
            if code != 0:
                return (i << FAILED_BITS) | code
        return -1

    compiled = cfunc(types.int64(types.CPointer(types.uint64), types.int64))(issue)
    call = CFUNCTYPE(c_int64, c_void_p, c_int64)(compiled.address)
    call.compiled = compiled  # type: ignore[attr-defined]  # keeps the code in memory
    return call


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


_kept: list[object] = []
