"""What traced code writes while it runs, and the helper that it writes with.

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
from ..library import Helpers, family

_PAYLOAD_BYTES = 512  # of an event, on average: three registers of 32 bits and what goes with them


class TapeState(ctypes.Structure):
    """What the code of a launch finds: where to write, and whose events are wanted.

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
            raise DeviceError(f"limit: no memory for {capacity:,} events: {error}") from None
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


def _offset(name: str) -> int:
    return int(getattr(TapeState, name).offset)


def _load(name: str, kind: str) -> str:
    return (
        f"  %{name}.at = getelementptr i8, ptr %tape, i64 {_offset(name)}\n"
        f"  %{name} = load {kind}, ptr %{name}.at, align {4 if kind == 'i32' else 8}\n"
    )


def _count(name: str, by: str) -> str:
    return (
        f"  %{name}.at = getelementptr i8, ptr %tape, i64 {_offset(name)}\n"
        f"  %{name} = atomicrmw add ptr %{name}.at, i64 {by} monotonic\n"
    )


def _put(name: str, kind: str, value: str) -> str:
    offset = HEADER.fields[name][1] if HEADER.fields else 0
    return (
        f"  %{name}.to = getelementptr i8, ptr %header, i64 {offset}\n"
        f"  store {kind} {value}, ptr %{name}.to, align {4 if kind == 'i32' else 8}\n"
    )


@family("tape")
def tape(helpers: Helpers, name: str) -> str:
    return f"""
define internal ptr @{name}(ptr %tape, ptr %ctx, ptr %state, i32 %site, i64 %nbytes, i32 %mask, i32 %active) #0 {{
{_load("dump", "ptr")}{_load("warps", "i32")}{_load("cta", "i64")}\
  %warp.at = getelementptr i8, ptr %ctx, i64 {WARP}
  %warp = load i32, ptr %warp.at, align 4
  %bit = shl i32 1, %warp
  %own = and i32 %warps, %bit
  %ours = icmp ne i32 %own, 0
  %now.at = getelementptr i8, ptr %state, i64 {state_offset("cta")}
  %now = load i64, ptr %now.at, align 8
  %here = icmp eq i64 %now, %cta
  %all = icmp slt i64 %cta, 0
  %cta.wanted = or i1 %here, %all
  %wanted = and i1 %ours, %cta.wanted
  br i1 %wanted, label %take, label %leave
leave:
  ret ptr %dump
take:
{_count("count", "1")}{_count("used", "%nbytes")}{_load("capacity", "i64")}\
{_load("payload_capacity", "i64")}  %end = add i64 %used, %nbytes
  %room = icmp slt i64 %count, %capacity
  %fits = icmp sle i64 %end, %payload_capacity
  %kept = and i1 %room, %fits
  br i1 %kept, label %keep, label %leave
keep:
{_load("headers", "ptr")}{_load("payload", "ptr")}\
  %header.offset = mul i64 %count, {HEADER.itemsize}
  %header = getelementptr i8, ptr %headers, i64 %header.offset
  %mark = add i32 %site, 1
{_put("mark", "i32", "%mark")}{_put("warp", "i32", "%warp")}{_put("cta", "i64", "%now")}\
{_put("mask", "i32", "%mask")}{_put("active", "i32", "%active")}{_put("offset", "i64", "%used")}\
  %place = getelementptr i8, ptr %payload, i64 %used
  ret ptr %place
}}
"""  # noqa: E501
