"""Memory that an instrumented run keeps beside the kernel's own: structures and offsets.

Each worker has a `CheckState`, put together from the fields of all checks; the arrays of the launch
(`Area`) and the shadows of their elements are shared by all workers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping
from functools import lru_cache

import numpy as np

# What `other` of a record says of an address alone: whether it is one of shared memory.
IN_SHARED = 1

# Flags of an area; of one that the launch ahead, which may still run, writes, or uses at all.
WRITABLE, AHEAD_WRITTEN, AHEAD_USED = 1, 2, 4

# A tag says who used a piece of shared memory last: epoch << 8 | 2 * warp + (1: wrote, 0: read).
# The epoch counts barriers, and with clocks all that orders warps; LANDED is added where an
# asynchronous copy wrote, and with clocks AWAITED too where an mbarrier waited for that; AWAITED
# alone is added where an atomic operation wrote.  MANY is the low byte of "read by several warps",
# which is for epochs only; PENDING all high bytes of "a copy to here is under way".
LANDED, AWAITED, MANY, PENDING = 0x40, 0x80, 0xFE, -256  # as LLVM writes 0xFFFFFF00
STEP = 256  # from one epoch's tags to the next
LAST_EPOCH = 0x7000_0000  # beyond this the tags are cleared and the epochs begin again

# A clock has one time for each warp, for its copies to shared memory, for its products, and for its
# bulk copies to global memory, each from an index on; see clocks.py.  An object is what warps wait
# for: the 16 named barriers, all atomic operations together, and mbarriers; it has two clocks after
# a head of 64 bytes.
COPIES, PRODUCTS, BULKS = 32, 64, 96
AGENTS, CLOCK_BYTES, OBJECT_BYTES = 128, 512, 64 + 2 * 512
ATOMICS, MBARRIERS, OBJECTS = 16, 17, 17 + 64

# Asynchronous copies that one warp may have under way; beyond that the oldest land early.
QUEUE_LENGTH = 512


_KINDS: dict[str, int] = {}
_FIELDS: dict[str, type] = {
    "worker": ctypes.c_void_p,
    "records": ctypes.c_void_p,
    "found": ctypes.c_void_p,
    "tape": ctypes.c_void_p,
    "visit": ctypes.c_uint32,
    "reverse": ctypes.c_uint32,
    "stamp": ctypes.c_uint32,
}


def add(kinds: Iterable[str], fields: Mapping[str, type]) -> None:
    """Number what a check's code may record, and give its fields a place; once for each check."""
    for kind in kinds:
        _KINDS[kind] = len(_KINDS)
    _FIELDS.update(fields)


@lru_cache(maxsize=1)
def check_state() -> type[ctypes.Structure]:
    """Structure for one worker's instrumented code: the fields of all checks, and these.

    worker: its State (layout.py).  records: `RECORD` for each instruction and kind; found: i32, 1
    where there are any.  tape: where a trace goes (trace/tape.py), else NULL.  visit: counts calls
    that found something.  reverse: whether the warps run in reverse order.  stamp: the time that
    tags get.
    """
    widest = sorted(_FIELDS.items(), key=lambda item: -ctypes.sizeof(item[1]))
    return type("CheckState", (ctypes.Structure,), {"_fields_": widest})


def kinds() -> list[str]:
    """The kinds that native code records, in the order of an instruction's records."""
    return list(_KINDS)


def number_of(kind: str) -> int:
    """Index of a kind's record among those of an instruction."""
    return _KINDS[kind]


class Area(ctypes.Structure):
    """One array of the launch. shadow: NULL, or a word for each 2**granule bytes of it.

    sites: NULL, or where each was written last, plus 1.
    times: NULL, or the tag and the time of the last store to each of them (talks.py).
    slots: NULL, or two of `SLOT_BYTES` for each of them (readers.py).
    hands: NULL, or `HAND_BYTES` for each of them (handovers.py).
    written: NULL, where all of it is; or a byte for each of its bytes, 0 where nobody has written.
    rows: NULL, or the same of its rows (rows.py), as if they were its elements; whose `rows` are
    the states of them.
    """

    _fields_ = (
        ("start", ctypes.c_uint64),
        ("end", ctypes.c_uint64),
        ("shadow", ctypes.c_void_p),
        ("sites", ctypes.c_void_p),
        ("times", ctypes.c_void_p),
        ("slots", ctypes.c_void_p),
        ("hands", ctypes.c_void_p),
        ("written", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("granule", ctypes.c_uint32),
    )


WARPS = 1 << 30  # with a warp's number: who else wrote in global memory, and not a CTA
HELD = -1  # a mark, as LLVM writes it, while a thread of the host looks at the element
READ = 1 << 31  # with a CTA's mark: it read, and did not write
DOUBT_BYTES, DOUBTS = 16, 32 * 16 + 32 * 8
SLOT_BYTES, HAND_BYTES = 16, 40
HAND_LANE = 12  # of a hand: the lane that stored last, with when its warp had met (neighbours.py)
# State of a row: APART where its elements have a record each; else there is one for all, and it is
# the step from lane to lane of those that stored last, and 256 times the bytes of each; or 0 where
# the record is empty.
ROW_BYTES, APART = 64, 255
# Of a site: i64 first address, i64 number of accesses that fit behind it, i64 distance from an
# address to the byte that says whether it is written, or 0 where all is.
SITE_BYTES, SITE_WRITTEN = 32, 16

RECORD = np.dtype(
    [
        ("count", np.uint64),
        ("address", np.uint64),
        ("lanes", np.uint32),
        ("warp", np.uint32),
        ("cta", np.uint32, 3),
        ("visit", np.uint32),
        ("other", np.uint32),
        ("nbytes", np.uint32),
        ("by", np.uint32),
        ("unused", np.uint32),
    ]
)

# A queue: i32 first, i32 behind the last, i32 number of the open group; then its entries.
QUEUE_HEAD, ENTRY_BYTES = 64, 576
QUEUE_BYTES = QUEUE_HEAD + QUEUE_LENGTH * ENTRY_BYTES


def offset(name: str) -> int:
    """Offset of a field of CheckState, in bytes."""
    return int(getattr(check_state(), name).offset)


def record_offset(name: str) -> int:
    """Offset of a field of a record, in bytes."""
    return int(RECORD.fields[name][1]) if RECORD.fields else 0
