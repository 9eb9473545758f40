"""Tape that traced code writes while it runs, and the function that it writes with.

A tape is two arrays that all workers of a launch share: a header for each event, and its payload,
whose form is that of its site (sites.py).  It is bounded.  The events that fit are kept from the
first on, for what a register holds is known only from the beginning; later ones are counted.

    tape(tape, ctx, state, site, nbytes, mask, active): where the payload of an event goes
"""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from ...errors import DeviceError
from ..layout import WARP, state_offset
from ..routine import Routine, routine
from ..values import Value

_PAYLOAD_BYTES = 512  # of an event, on average: three registers of 32 bits and what goes with them


class TapeState(ctypes.Structure):
    """State of a launch's tape: the place to write to, and the CTAs and warps that are wanted.

    count, used: events and bytes of payload that came, also those that did not fit.
    cta: the number of the CTA that is wanted, or -1 for all.  warps: one bit for each warp.
    dump: a place for the payload of what is not kept.
    """

    _fields_ = (
        ("headers", ctypes.c_void_p),
        ("payload", ctypes.c_void_p),
        ("dump", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("used", ctypes.c_int64),
        ("capacity", ctypes.c_int64),
        ("payload_capacity", ctypes.c_int64),
        ("cta", ctypes.c_int64),
        ("warps", ctypes.c_uint32),
    )


HEADER = np.dtype(
    [
        ("mark", np.uint32),  # 1 + the number of the site; 0 where there is no event
        ("warp", np.uint32),
        ("cta", np.uint64),
        ("mask", np.uint32),  # lanes that execute it
        ("active", np.uint32),  # lanes that came to it; a guard takes out those not in `mask`
        ("offset", np.uint64),
    ]
)


class Tape:
    """Room for `capacity` events of one launch.

    cta: number of the CTA, x first; None for all.  warps: which ones, as bits.
    widest: bytes that the largest event takes.

    Raises DeviceError where there is no memory for it.
    """

    def __init__(self, capacity: int, cta: int | None, warps: int, widest: int) -> None:
        try:  # pages of it are the process's only once they are written
            self._headers = np.zeros(capacity, HEADER)
            self._payload = np.zeros(capacity * _PAYLOAD_BYTES + widest, np.uint8)
        except (MemoryError, ValueError) as error:
            raise DeviceError("limit", f"no memory for {capacity:,} events: {error}") from None
        self._dump = np.zeros(widest, np.uint8)
        self.state = TapeState(
            headers=self._headers.ctypes.data,
            payload=self._payload.ctypes.data,
            dump=self._dump.ctypes.data,
            capacity=capacity,
            payload_capacity=self._payload.nbytes,
            cta=-1 if cta is None else cta,
            warps=warps,
        )

    @property
    def address(self) -> int:
        return ctypes.addressof(self.state)

    def read(self) -> tuple[NDArray[np.void], NDArray[np.uint8], int]:
        """Headers and payload of the events that were kept, and how many were not.

        In the order of each CTA, those of one CTA after those of another.
        """
        headers = self._headers[: min(self.state.count, len(self._headers))]
        headers = headers[headers["mark"] != 0]
        order = np.argsort(headers["cta"], kind="stable")
        dropped = int(self.state.count) - len(headers)
        kept = min(int(self.state.used), self._payload.nbytes)
        return headers[order], self._payload[:kept].copy(), dropped


def _place(r: Routine, tape: Value, name: str) -> Value:
    return Value(r.at(tape, int(getattr(TapeState, name).offset)), "ptr")


@routine("tape")
def write(r: Routine) -> None:
    tape, ctx, state, site, nbytes, mask, active = r.takes(
        "ptr", "ptr", "ptr", "i32", "i64", "i32", "i32"
    )

    def load(name: str, kind: str) -> Value:
        return r.load(kind, 1, _place(r, tape, name), 0, 4 if kind == "i32" else 8)

    def count(name: str, by: Value) -> Value:
        text = r.emit(f"atomicrmw add {_place(r, tape, name)}, {by} monotonic")
        return Value(text, "i64")

    dump, warp = load("dump", "ptr"), r.load("i32", 1, ctx, WARP, 4)
    bit = r.op("shl", r.constant("i32", 1), warp)
    ours = r.compare("icmp ne", r.op("and", load("warps", "i32"), bit), 0)
    now, cta = r.load("i64", 1, state, state_offset("cta"), 8), load("cta", "i64")
    here = r.op("or", r.compare("icmp eq", now, cta), r.compare("icmp slt", cta, 0))
    r.ret_if(r.invert(r.op("and", ours, here)), dump)
    number, used = count("count", r.constant("i64", 1)), count("used", nbytes)
    room = r.compare("icmp slt", number, load("capacity", "i64"))
    end = r.op("add", used, nbytes)
    fits = r.compare("icmp sle", end, load("payload_capacity", "i64"))
    r.ret_if(r.invert(r.op("and", room, fits)), dump)
    header = r.item("i8", load("headers", "ptr"), r.op("mul", number, HEADER.itemsize))
    words = {"mark": r.op("add", site, 1), "warp": warp, "cta": now}
    words |= {"mask": mask, "active": active, "offset": used}
    assert HEADER.fields is not None
    for name, value in words.items():
        r.store(value, header, int(HEADER.fields[name][1]), 4)
    r.ret(r.item("i8", load("payload", "ptr"), used))
