"""What an instrumented run keeps in memory beside the kernel's own: structures and offsets.

Each worker has a `CheckState`; the arrays of the launch (`Area`) and the shadows of their
elements are shared by all workers.
"""

from __future__ import annotations

import ctypes

import numpy as np

# What a record can tell. The order is that of the records of one instruction.
KINDS = (
    "out-of-bounds",
    "misaligned",
    "read-only",
    "uninitialised-shared",
    "uninitialised-scratch",
    "uninitialised-register",
    "race",
    "lane-conflict",
    "pending-copy",
    "missing-fence",
    "cta-race",
    "warp-race",
    "pending-product",
    "lane-race",
)
KIND = {name: number for number, name in enumerate(KINDS)}

# What `other` of a record says of an address alone: whether it is one of shared memory.
IN_SHARED = 1

# Flags of an area.
WRITABLE, SCRATCH = 1, 2

# A tag says who used a piece of shared memory last: epoch << 8 | 2 * warp + (1: wrote, 0: read).
# The epoch counts barriers, and with clocks all that orders warps; LANDED is added where an
# asynchronous copy wrote, and with clocks AWAITED too where an mbarrier waited for that; AWAITED
# alone is added where an atomic operation wrote.  MANY is the low byte of "read by several warps",
# which is for epochs only; PENDING all high bytes of "a copy to here is under way".
LANDED, AWAITED, MANY, PENDING = 0x40, 0x80, 0xFE, -256  # as LLVM writes 0xFFFFFF00
STEP = 256  # from one epoch's tags to the next
LAST_EPOCH = 0x7000_0000  # beyond this the tags are cleared and the epochs begin again

# A clock has one time for each warp, for its copies (from 32 on) and for its products (from 64 on);
# see clocks.py.  An object is what warps wait for: the 16 named barriers, all atomic operations
# together, and mbarriers; it has two clocks behind a head of 64 bytes.
AGENTS, CLOCK_BYTES, OBJECT_BYTES = 128, 512, 64 + 2 * 512
ATOMICS, MBARRIERS, OBJECTS = 16, 17, 17 + 64
PRODUCT_HEAD = 64  # of a warp's memory for wgmma: see products.py

# Asynchronous copies that one warp may have under way; beyond that the oldest land early.
QUEUE_LENGTH = 512


class CheckState(ctypes.Structure):
    """What the instrumented code of one worker needs.

    sites: what each instruction found last (`SITE_BYTES` each).  records: `RECORD` for each
    instruction and kind.  tags: one for each granule of shared memory.  queues: copies under way,
    one queue a warp.  registers: which lanes have written those that are watched.  fences: of each
    warp the epoch of its last proxy fence.  doubted: lanes whose store may be a race; doubts: what
    was there before (`DOUBT_BYTES` each), and who wrote it.  tape: where a trace goes
    (trace/tape.py), else NULL.  visit: counts calls that found something.  limit: bytes of shared
    memory.  dump: where accesses that are not allowed go instead.  stamp: the epoch that tags get;
    now: a tag at or above it is of this epoch; base: a tag below it was not written by this CTA.
    clocks, objects: see above.  planes: for each warp, then for the products of each warp, when it
    last loaded each granule; latest: its last load of all.  products: see products.py.
    lane_tags, meetings: of each granule and of each warp, see neighbours.py.
    time: what counts, over all workers, how CTAs talk to each other; released: of each CTA and warp
    the first tag that is not known to others; acquired: of each warp of this CTA when it last
    acquired something: the time, and its tag (talks.py).
    """

    _fields_ = (
        ("worker", ctypes.c_void_p),
        ("areas", ctypes.c_void_p),
        ("sites", ctypes.c_void_p),
        ("records", ctypes.c_void_p),
        ("tags", ctypes.c_void_p),
        ("queues", ctypes.c_void_p),
        ("registers", ctypes.c_void_p),
        ("fences", ctypes.c_void_p),
        ("doubts", ctypes.c_void_p),
        ("tape", ctypes.c_void_p),
        ("clocks", ctypes.c_void_p),
        ("objects", ctypes.c_void_p),
        ("planes", ctypes.c_void_p),
        ("latest", ctypes.c_void_p),
        ("products", ctypes.c_void_p),
        ("lane_tags", ctypes.c_void_p),
        ("meetings", ctypes.c_void_p),
        ("time", ctypes.c_void_p),
        ("released", ctypes.c_void_p),
        ("acquired", ctypes.c_void_p),
        ("tag_bytes", ctypes.c_uint64),
        ("plane_bytes", ctypes.c_uint64),
        ("area_count", ctypes.c_uint32),
        ("visit", ctypes.c_uint32),
        ("limit", ctypes.c_uint32),
        ("dump", ctypes.c_uint32),
        ("stamp", ctypes.c_uint32),
        ("now", ctypes.c_uint32),
        ("base", ctypes.c_uint32),
        ("reverse", ctypes.c_uint32),
        ("doubted", ctypes.c_uint32),
        ("product_bytes", ctypes.c_uint32),
    )


class Area(ctypes.Structure):
    """One array of the launch. shadow: NULL, or a word for each 2**granule bytes of it.

    times: NULL, or the tag and the time of the last store to each of them (talks.py).
    """

    _fields_ = (
        ("start", ctypes.c_uint64),
        ("end", ctypes.c_uint64),
        ("shadow", ctypes.c_void_p),
        ("times", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("granule", ctypes.c_uint32),
    )


WARPS = 1 << 30  # with a warp's number: who else wrote in global memory, and not a CTA
DOUBT_BYTES, DOUBTS = 16, 32 * 16 + 32 * 4
SITE_BYTES = 16  # i64 first address, i64 number of accesses that fit behind it

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
    ]
)

# A queue: i32 first, i32 behind the last, i32 number of the open group; then its entries.
QUEUE_HEAD, ENTRY_BYTES = 64, 576
QUEUE_BYTES = QUEUE_HEAD + QUEUE_LENGTH * ENTRY_BYTES


def offset(name: str) -> int:
    """Offset of a field of CheckState, in bytes."""
    return int(getattr(CheckState, name).offset)


def record_offset(name: str) -> int:
    """Offset of a field of a record, in bytes."""
    return int(RECORD.fields[name][1]) if RECORD.fields else 0


def load_field(name: str, kind: str, pointer: str = "%checks") -> str:
    """Lines that load a field of CheckState into %<name>."""
    align = 8 if kind in ("ptr", "i64") else 4
    return (
        f"  %{name}.at = getelementptr i8, ptr {pointer}, i64 {offset(name)}\n"
        f"  %{name} = load {kind}, ptr %{name}.at, align {align}\n"
    )


def load_area(*names: str) -> str:
    """Lines that load these fields of the Area at %area, each into %<name>."""
    kinds = {ctypes.c_uint64: "i64", ctypes.c_uint32: "i32", ctypes.c_void_p: "ptr"}
    types = dict(Area._fields_)
    return "".join(
        f"  %{name}.at = getelementptr i8, ptr %area, i64 {getattr(Area, name).offset}\n"
        f"  %{name} = load {kinds[types[name]]}, ptr %{name}.at\n"
        for name in names
    )
