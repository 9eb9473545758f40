"""The check "memory": lanes that may not access what they name are found, and left out.

    bounds_<space>_<load|store>_<bytes>(addresses, mask, checks, ctx, site) -> mask of those lanes
    judge_<space>(addresses, mask, bytes, checks, ctx, site) -> the same, lane after lane
    own(address, bytes, lane, checks, ctx) -> i1: whether it is no array's of the launch and yet may
        be used: of the module's own arrays, or a generic address of the CTA's shared memory or of
        the lane's local memory
    runs_<load|store>(addresses, sizes, mask, checks, ctx, site) -> lanes whose run may be touched
    boxruns_<in|out>_<rank>(shared addresses, map addresses, coordinates, mask, checks, ctx, site)
        -> lanes of whose box every row that lies in the tensor may be touched (runtime/tensors.py)
    run_<load|store>(address, size, lane, checks, ctx, site) -> i1: whether one run of bytes may be,
        which may go on from one array to the next where they touch
    descriptor_<a|b>_<major>_<rows>_<granule>_<epochs|clocks>(descriptor, row, checks, ctx, site)
        -> of wgmma; granule 0: only where it leads is looked at

So no address, however wild, is ever used.  Global memory: all lanes inside the array that the
instruction hit last, and aligned, is one subtraction, one rotation (misaligned offsets become huge)
and one comparison.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np

from ..builder import Builder
from ..hooks import Access, Box, Copy, Run
from ..layout import Layout
from ..library import Library
from ..ptx import Array, Instruction
from ..routine import VECTOR
from ..runtime.access import ADDRESSES
from ..runtime.tensors import BOX
from ..runtime.tensors import Box as BoxOfLane
from ..runtime.wgmma import addresses_of
from ..values import EachLane, Value
from .check import (
    POINTER,
    WORD,
    Check,
    Kept,
    Kind,
    Room,
    at_site,
    invert,
    is_uniform,
    mask_of,
    word,
    zeros,
)
from .code import Code, code
from .state import IN_SHARED, SCRATCH, SITE_BYTES, WRITABLE, Area, number_of, offset

_WORDS = ("i32", "i32")
_ALIGNED = "the access has to be aligned to its size"


class Bounds(Check):
    """Always active: whatever is asked for, no access leaves its memory."""

    kinds = (
        Kind(
            "out-of-bounds",
            "memory",
            {
                "local": "{place}: a thread has {local_bytes} bytes; look at the index",
                "shared": "{place}: the CTA has {limit} bytes; look at shared_bytes of the launch"
                " and at the address",
                "global": "{nbytes} bytes at {place}; {mask}, at the sizes and at the strides",
            },
        ),
        Kind(
            "misaligned",
            "memory",
            {
                "local": f"{{place}}: {_ALIGNED}",
                "shared": f"{{place}}: {_ALIGNED}",
                "global": f"{{nbytes}} bytes at {{place}}: {_ALIGNED}",
            },
        ),
        Kind(
            "read-only",
            "memory",
            {"global": "writes {nbytes} bytes to {place}, which the launch may only read"},
        ),
        Kind("layout", "memory"),  # of arrays: devices/checked.py compares shapes and strides
    )
    # sites: what each instruction found last (`SITE_BYTES` each).  limit: bytes of shared memory.
    # dump: where accesses that are not allowed go instead.
    fields: ClassVar = {
        "areas": POINTER,
        "sites": POINTER,
        "area_count": WORD,
        "limit": WORD,
        "dump": WORD,
    }

    @property
    def active(self) -> bool:
        return True

    def keep(self, room: Room) -> Kept:
        sites = zeros(room.statements * SITE_BYTES, np.uint8)
        return {"sites": sites, "dump": -(-room.nbytes // 16) * 16}

    def prepare(self, b: Builder) -> None:
        b.own_functions.append(own(b.library, b.arrays, b.layout, b.flow.local_bytes))

    def access(self, b: Builder, at: Access, condition: Value | None) -> Value:
        mask = mask_of(b, at.address, condition)
        if at.space == "shared":
            allowed = self._within(b, at, mask)
        else:
            name = f"bounds_global_{'load' if at.kind == 'load' else 'store'}_{at.nbytes}"
            allowed = word(b.call(name, "i32", b.vector(at.address), mask, *at_site(at.ins)))
        if is_uniform(at.address, condition):
            return b.compare("icmp ne", allowed, 0)
        return b.lanes(allowed)

    def _within(self, b: Builder, at: Access, mask: Value) -> Value:
        """The lanes inside shared memory. In line, for a call would cost more than the test."""
        log2, addresses = at.nbytes.bit_length() - 1, b.vector(at.address)
        turned = addresses
        if log2:  # misaligned offsets become huge
            shift = b.vector(b.constant("i32", log2))
            turned = b.intrinsic("llvm.fshr", addresses, addresses, shift)
        limit = b.load("i32", 1, "%checks", offset("limit"), 4)
        room = b.op("lshr", limit, log2)
        bad = b.op("and", b.mask(b.compare("icmp uge", turned, room)), mask)
        with b.when(b.compare("icmp ne", bad, 0)):
            width = b.constant("i32", at.nbytes)
            b.call("judge_shared", "i32", addresses, bad, width, *at_site(at.ins))
        return b.op("and", mask, invert(b, bad))

    def local(self, b: Builder, at: Access, condition: Value | None) -> Value:
        offsets = b.cast("trunc", b.op("sub", at.address, b.local_memory()), "i32")
        name = f"judge_local_{b.flow.local_bytes}"
        width = b.constant("i32", at.nbytes)
        allowed = b.call(name, "i32", offsets, b.mask(condition), width, *at_site(at.ins))
        return b.lanes(word(allowed))

    def dumped(self, b: Builder, address: Value, allowed: Value) -> Value:
        """Addresses of which those that are not allowed lead to a dump."""
        return b.select(allowed, address, b.vector(b.load("i32", 1, "%checks", offset("dump"), 4)))

    def descriptor(
        self, b: Builder, ins: Instruction, value: Value, form: str, rows: int, row: Value
    ) -> Value:
        """Descriptor that leads to nothing but shared memory; reads through it are tested, too."""
        subject = self.subject
        granule = subject.granule if subject.tagged else 0
        name = f"descriptor_{form}_{rows}_{granule}_{subject.mode}"
        return Value(b.call(name, "i64", value, row, *at_site(ins)), "i64")

    def mbarrier(self, b: Builder, at: Access, condition: Value | None) -> Value:
        return b.lanes(self._within(b, at, b.mask(condition)))

    def passes(self, b: Builder, address: Value, over: Value, acts: Value, passed: Value) -> Value:
        """Lanes whose access was refused must not wait."""
        return b.op("or", over, b.compare("icmp eq", acts, 0))

    def copy(self, b: Builder, at: Copy, mask: Value) -> Value:
        """Test a copy; of a source that is shorter, the first and the last byte."""
        source, sizes, here = at.source, at.sizes, at_site(at.ins)
        whole = b.mask(b.compare("icmp uge", sizes, at.nbytes))
        some = b.mask(b.compare("icmp ne", sizes, 0))
        wanted = b.op("and", mask, whole)
        parts = b.op("and", mask, b.op("and", some, invert(b, whole)))
        good = word(b.call(f"bounds_global_load_{at.nbytes}", "i32", source, wanted, *here))
        last = b.op("add", source, b.cast("zext", b.op("sub", sizes, 1), "i64"))
        for end in (source, last):
            parts = word(b.call("bounds_global_load_1", "i32", end, parts, *here))
        none = b.op("and", mask, invert(b, some))
        allowed = b.op("or", b.op("or", good, parts), none)
        return word(b.call(f"bounds_shared_store_{at.nbytes}", "i32", at.to, allowed, *here))

    def near(self, b: Builder, run: Run, mask: Value) -> Value:
        """The first and the last 16 bytes are tested."""
        some = b.mask(b.compare("icmp ne", run.sizes, 0))
        mask = b.op("and", mask, some)
        behind = b.op("sub", run.sizes, 16)
        name = f"bounds_shared_{'store' if run.inward else 'load'}_16"
        for address in (run.address, b.op("add", run.address, behind)):
            mask = word(b.call(name, "i32", address, mask, *at_site(run.ins)))
        return mask

    def far(self, b: Builder, run: Run, mask: Value) -> Value:
        """The alignment of the first 16 bytes and the whole run are tested."""
        access, here = "load" if run.inward else "store", at_site(run.ins)
        mask = word(b.call(f"bounds_global_{access}_16", "i32", run.address, mask, *here))
        sizes = b.vector(run.sizes)
        return word(b.call(f"runs_{access}", "i32", run.address, sizes, mask, *here))

    def box(self, b: Builder, ins: Instruction, name: str, box: Box, mask: Value) -> Value:
        """Row after row."""
        return word(b.call(f"boxruns_{name}", "i32", *box, mask, *at_site(ins)))


@code("bounds")
def bounds(c: Code, space: str, access: str, nbytes: str) -> None:
    address, mask = c.takes(ADDRESSES[space], "i32")
    c.looks()
    size, log2 = int(nbytes), int(nbytes).bit_length() - 1
    c.ret_if(c.compare("icmp eq", mask, 0), mask)
    if space == "global":
        site = _site(c)
        room = c.load("i64", 1, site, 8, 8)
        turned = c.op("sub", address, c.load("i64", 1, site, 0, 8))
    else:
        room, turned = c.op("lshr", c.field("limit"), log2), address
    if log2:
        turned = c.intrinsic("llvm.fshr", turned, turned, c.constant(turned.type, log2))
    bad = c.op("and", c.mask(c.compare("icmp uge", turned, room)), mask)
    c.ret_if(c.compare("icmp eq", bad, 0), mask)
    judge = f"judge_global_{access}" if space == "global" else "judge_shared"
    c.ret(word(c.call(judge, "i32", address, mask, c.constant("i32", size), *c.here)))


def _site(c: Code) -> Value:
    """Address of the note of the array that the instruction hit last."""
    number = c.op("mul", c.cast("zext", c.site, "i64"), SITE_BYTES)
    return c.item("i8", c.field("sites"), number)


@code("judge")
def judge(c: Code, space: str, access: str = "") -> None:
    """Lane after lane; what is not allowed is recorded. Of local memory `access` is the size."""
    address, mask, nbytes = c.takes(ADDRESSES["global" if space == "global" else "shared"], *_WORDS)
    c.looks()
    c.visits()
    places = c.spread(address)
    lanes = c.each_lane(mask, c.constant("i32", 0))
    with lanes as (lane, allowed):
        with_this = c.op("or", allowed, c.op("shl", c.constant("i32", 1), lane))
        place, low = places(lane), c.op("add", c.cast("zext", nbytes, address.type), -1)
        aligned = c.compare("icmp eq", c.op("and", place, low), 0)
        if space == "global":
            _judge_global(c, lanes, access, lane, place, nbytes, aligned, (allowed, with_this))
        else:
            limit = c.field("limit") if space == "shared" else c.constant("i32", int(access))
            end = c.op("add", *(c.cast("zext", v, "i64") for v in (place, nbytes)))
            inside = c.compare("icmp ule", end, c.cast("zext", limit, "i64"))
            with c.when(c.op("and", inside, aligned)):
                lanes.next(with_this)
            wrong = [c.constant("i32", number_of(k)) for k in ("misaligned", "out-of-bounds")]
            kind = c.select(inside, *wrong)
            c.record(kind, lane, place, nbytes, IN_SHARED if space == "shared" else 0)
            lanes.next(allowed)
    c.ret(lanes.results[0])


def _judge_global(
    c: Code,
    lanes: EachLane,
    access: str,
    lane: Value,
    place: Value,
    nbytes: Value,
    aligned: Value,
    masks: tuple[Value, Value],
) -> None:
    """The array around an address becomes the one that the instruction hit last.

    masks: of the lanes that are allowed without this one, and with it.
    """
    size = c.cast("zext", nbytes, "i64")

    def fits(offset: Value, length: Value) -> Value:
        room = c.compare("icmp uge", c.op("sub", length, offset), size)
        return c.op("and", c.compare("icmp ule", offset, length), room)

    found, area, problem = _find(c, access, place, fits)
    with c.when(c.invert(found)):
        own = c.call("own", "i1", place, size, lane, c.checks, c.ctx)
        with c.when(Value(own, "i1")):
            lanes.next(masks[1])
        c.record(problem, lane, place, nbytes)
        lanes.next(masks[0])
    with c.when(c.invert(aligned)):
        c.record("misaligned", lane, place, nbytes)
        lanes.next(masks[0])
    start, end = c.of_area(area, "start"), c.of_area(area, "end")
    if access == "load":
        # Scratch is never remembered as what an instruction hit last, so all reads come here.
        with c.when(_is_scratch(c, area)):
            offset = c.op("sub", place, start)
            first, _ = _unwritten(c, area, offset, c.op("add", offset, size))
            with c.when(c.compare("icmp ne", first, c.op("add", offset, size))):
                c.record("uninitialised-scratch", lane, place, nbytes)
            lanes.next(masks[1])
    up = c.op("add", start, c.op("add", size, -1))
    first = c.op("and", up, c.op("sub", c.constant("i64", 0), size))
    site = _site(c)
    c.store(first, site, 0, 8)
    c.store(c.op("udiv", c.op("sub", end, first), size), site, 8, 8)
    lanes.next(masks[1])


def _find(
    c: Code, access: str, place: Value, fits: Callable[[Value, Value], Value]
) -> tuple[Value, Value, Value]:
    """Find the array that may be accessed in this way; else the kind of error.

    fits: says by an offset and the array's length, in bytes, whether it is the one.
    """
    areas, count = c.field("areas"), c.field("area_count")
    loop = c.loop(c.constant("i32", 0), c.constant("i32", number_of("out-of-bounds")))
    with loop as (i, problem):
        loop.leave(c.compare("icmp uge", i, count), i, problem)
        area = c.item("i8", areas, c.op("mul", i, ctypes.sizeof(Area)))
        start = c.of_area(area, "start")
        length = c.op("sub", c.of_area(area, "end"), start)
        inside = usable = fits(c.op("sub", place, start), length)
        if access == "store":
            flags = c.op("and", c.of_area(area, "flags"), WRITABLE)
            usable = c.op("and", inside, c.compare("icmp ne", flags, 0))
        loop.leave(usable, i, problem)
        read_only = c.constant("i32", number_of("read-only"))
        loop.again(c.op("add", i, 1), c.select(inside, read_only, problem))
    number, problem = loop.results
    area = c.item("i8", areas, c.op("mul", number, ctypes.sizeof(Area)))
    return c.compare("icmp ult", number, count), area, problem


def _is_scratch(c: Code, area: Value) -> Value:
    return c.compare("icmp ne", c.op("and", c.of_area(area, "flags"), SCRATCH), 0)


def _unwritten(c: Code, area: Value, offset: Value, end: Value) -> tuple[Value, Value]:
    """The first stretch of bytes of scratch that nobody wrote; its start is `end` for none."""
    shadow = c.of_area(area, "shadow")
    loop = c.loop(offset, end)
    with loop as (i, first):
        loop.leave(c.compare("icmp uge", i, end), i, first)
        mark = c.load("i32", 1, c.item("i32", shadow, i), 0, 4)
        marked, begun = c.compare("icmp ne", mark, 0), c.compare("icmp ne", first, end)
        loop.leave(c.op("and", marked, begun), i, first)
        begins = c.op("or", marked, begun)
        loop.again(c.op("add", i, 1), c.select(begins, first, i))
    behind, first = loop.results
    return first, behind


@code("run")
def run(c: Code, access: str) -> None:
    """Array after array; what is recorded is the whole run.

    A read of scratch memory that nobody wrote is recorded and goes on, as with other accesses.
    """
    address, nbytes, lane = c.takes("i64", "i64", "i32")
    c.looks()
    behind = c.op("add", address, nbytes)
    loop = c.loop(address)
    with loop as (place,):
        left = c.op("sub", behind, place)
        found, area, problem = _find(
            c, access, place, lambda offset, length: c.compare("icmp ult", offset, length)
        )
        with c.when(c.invert(found)):
            own = Value(c.call("own", "i1", place, left, lane, c.checks, c.ctx), "i1")
            c.ret_if(own, own)
            c.record(problem, lane, address, c.cast("trunc", nbytes, "i32"))
            c.ret(own)
        end = c.of_area(area, "end")
        to_end = c.op("sub", end, place)
        if access == "load":
            with c.when(_is_scratch(c, area)):
                start = c.of_area(area, "start")
                offset = c.op("sub", place, start)
                last = c.op("add", offset, c.intrinsic("llvm.umin", to_end, left))
                first, behind_first = _unwritten(c, area, offset, last)
                with c.when(c.compare("icmp ne", first, last)):
                    size = c.cast("trunc", c.op("sub", behind_first, first), "i32")
                    c.record("uninitialised-scratch", lane, c.op("add", start, first), size)
        loop.leave(c.compare("icmp uge", to_end, left))
        loop.again(end)
    c.ret(Value("true", "i1"))


@code("runs")
def runs(c: Code, access: str) -> None:
    address, size, mask = c.takes(ADDRESSES["global"], VECTOR, "i32")
    c.looks()
    c.visits()
    places, sizes = c.spread(address), c.spread(size)
    lanes = c.each_lane(mask, c.constant("i32", 0))
    with lanes as (lane, allowed):
        nbytes = c.cast("zext", sizes(lane), "i64")
        fine = Value(c.call(f"run_{access}", "i1", places(lane), nbytes, lane, *c.here), "i1")
        lanes.next(c.op("or", allowed, c.op("shl", c.cast("zext", fine, "i32"), lane)))
    c.ret(lanes.results[0])


@code("boxruns")
def box_runs(c: Code, way: str, rank: str) -> None:
    """Test a box's rows; on the way out the last 16 bytes of a row are written as a whole."""
    shared, maps, coordinates, mask = c.takes(*BOX)
    c.looks()
    c.visits()
    near, addresses = c.spread(shared), c.spread(maps)
    lanes = c.each_lane(mask, c.constant("i32", 0))
    with lanes as (lane, allowed):
        box = BoxOfLane.read(c, near(lane), addresses(lane), coordinates, lane, int(rank))
        low = c.intrinsic("llvm.smax", box.corner[0], c.constant("i64", 0))
        end = c.op("add", box.corner[0], box.sizes[0])
        high = c.intrinsic("llvm.smin", end, box.extents[0])
        rows = c.select(
            c.compare("icmp slt", low, high), box.times_rows(c, c.constant("i64", 1)), 0
        )
        low_bytes, high_bytes = (c.op("shl", v, box.log2) for v in (low, high))
        whole = 15 if way == "out" else 0
        high_bytes = c.op("and", c.op("add", high_bytes, whole), ~whole)
        nbytes = c.op("sub", high_bytes, low_bytes)
        loop = c.loop(c.constant("i64", 0))
        with loop as (number,):
            loop.leave(c.compare("icmp uge", number, rows))
            inside, start = box.row(c, number)
            with c.when(inside):
                name = f"run_{'load' if way == 'in' else 'store'}"
                first = c.op("add", start, low_bytes)
                fine = Value(c.call(name, "i1", first, nbytes, lane, *c.here), "i1")
                with c.when(c.invert(fine)):
                    lanes.next(allowed)
            loop.again(c.op("add", number, 1))
        lanes.next(c.op("or", allowed, c.op("shl", c.constant("i32", 1), lane)))
    c.ret(lanes.results[0])


@code("descriptor")
def descriptor(c: Code, operand: str, major: str, rows: str, granule: str, order: str) -> None:
    """Sixteen rows of A, or columns of B, at a time: 32 chunks of 16 bytes.

    The descriptor is returned, or one of the first bytes where it leads outside.
    """
    value, row = c.takes("i64", "i32")
    c.looks()
    count = int(rows) // 8 * 8
    loop = c.loop(c.constant("i32", 0), Value("true", "i1"))
    with loop as (i, good):
        at = addresses_of(c, value, major, operand, c.op("add", row, i))
        odd = c.compare("icmp ult", c.op("sub", c.constant("i32", count), i), 16)
        mask = c.select(odd, c.constant("i32", 65535), -1)
        allowed = word(c.call("bounds_shared_load_16", "i32", at, mask, *c.here))
        good = c.op("and", good, c.compare("icmp eq", allowed, mask))
        if granule != "0" and order == "clocks":
            c.call(f"fenced_{granule}", "void", at, allowed, *c.here)
        if granule != "0":
            kind = "product" if order == "clocks" else "load"
            c.call(f"tags_{kind}_16_{granule}_{order}", "void", at, allowed, *c.here)
        more = c.op("add", i, 16)
        loop.again_if(c.compare("icmp ult", more, count), more, good)
    c.ret(c.select(loop.results[1], value, 0))


def own(library: Library, arrays: Mapping[str, Array], layout: Layout, local_bytes: int) -> str:
    """The function `own` of one entry. local_bytes: of local memory that a thread may use."""
    c = Code(library, "own")
    place, size, lane = c.takes("i64", "i64", "i32")
    c.goes()
    start = c.op("add", c.op("mul", lane, layout.local_bytes), layout.local)
    places = [
        (c.of_worker("shared"), c.cast("zext", c.field("limit"), "i64")),
        (c.item("i8", c.ctx, start), c.constant("i64", local_bytes)),
    ]
    for name, array in arrays.items():
        places.append((Value(f'@"array.{name}"', "ptr"), c.constant("i64", len(array.content))))
    found = Value("false", "i1")
    for pointer, nbytes in places:
        first = Value(c.emit(f"ptrtoint {pointer} to i64"), "i64")
        offset = c.op("sub", place, first)
        near = c.compare("icmp ult", offset, nbytes)
        fits = c.compare("icmp ule", c.op("add", offset, size), nbytes)
        found = c.op("or", c.op("and", near, fits), found)
    c.ret(found)
    return c.text()
