"""The check "memory": lanes that may not access what they name are found, and left out.

    bounds_<space>_<access>_<bytes>(addresses, mask, checks, ctx, site) -> mask of those lanes
    judge_<space>(addresses, mask, bytes, checks, ctx, site) -> the same, lane after lane
    own(address, bytes, lane, checks, ctx) -> i1: whether it is no array's of the launch and yet may
        be used: of the module's own arrays or the parameters, or a generic address of the CTA's
        shared memory or of the lane's local memory
    descriptor_<a|b>_<major>_<rows>_<granule>_<epochs|clocks>(descriptor, row, checks, ctx, site)
        -> of wgmma; granule 0: only where it leads is looked at

So no address, however wild, is ever used.  Global memory: all lanes inside the array that the
instruction hit last, and aligned, is one subtraction, one rotation (misaligned offsets become huge)
and one comparison.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import ClassVar

import numpy as np

from ..builder import Builder
from ..hooks import Access, Box, Copy, Run
from ..layout import CLUSTER_STRIDE, Layout, state_offset
from ..library import Library
from ..ptx import Array, Instruction
from ..runtime.access import ADDRESSES
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
from .runs import find, has_blanks, unwritten
from .state import IN_SHARED, SITE_BYTES, SITE_WRITTEN, number_of, offset

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
                "global": "{nbytes} bytes at {place}; {mask} at the sizes and at the strides",
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
    # sites: what each instruction found last (`SITE_BYTES` each).  owners: of each the number of
    # the only array that its addresses can be of, plus 1; 0: any.  limit: bytes of shared memory.
    # dump: where accesses that are not allowed go instead.
    fields: ClassVar = {
        "areas": POINTER,
        "sites": POINTER,
        "owners": POINTER,
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
        parameters = max((sum(place) for place in b.params.values()), default=0)
        b.own_functions.append(own(b.library, b.arrays, b.layout, b.flow.local_bytes, parameters))

    def access(self, b: Builder, at: Access, condition: Value | None) -> Value:
        mask = mask_of(b, at.address, condition)
        if at.space == "shared":
            allowed = self._within(b, at, mask)
        else:
            name = f"bounds_global_{at.kind}_{at.nbytes}"
            allowed = word(b.call(name, "i32", b.vector(at.address), mask, *at_site(at.ins)))
        if is_uniform(at.address, condition):
            return b.compare("icmp ne", allowed, 0)
        return b.lanes(allowed)

    def _within(self, b: Builder, at: Access, mask: Value) -> Value:
        """The lanes inside shared memory. In line, for a call would cost more than the test."""
        log2, addresses = at.nbytes.bit_length() - 1, b.vector(at.address)
        turned = addresses
        if "shared::cluster" in at.ins.opcode.modifiers:  # the place in the CTA that it is of
            turned = b.op("and", addresses, CLUSTER_STRIDE - 1)
        if log2:  # misaligned offsets become huge
            shift = b.vector(b.constant("i32", log2))
            turned = b.intrinsic("llvm.fshr", turned, turned, shift)
        limit = b.load("i32", 1, "%checks", offset("limit"), 4)
        room = b.op("lshr", limit, log2)
        outside = b.compare("icmp uge", turned, room)
        if "shared::cluster" in at.ins.opcode.modifiers:
            outside = b.op("or", outside, self._of_no_cta(b, addresses))
        bad = b.op("and", b.mask(outside), mask)
        with b.when(b.compare("icmp ne", bad, 0)):
            width = b.constant("i32", at.nbytes)
            b.call("judge_shared", "i32", addresses, bad, width, *at_site(at.ins))
        return b.op("and", mask, invert(b, bad))

    @staticmethod
    def _of_no_cta(b: Builder, addresses: Value) -> Value:
        """Condition that an address of shared memory is of no CTA of the cluster."""
        rank, ctas = (
            b.load("i32", 1, "%state", state_offset(f"cluster_{name}"), 4)
            for name in ("rank", "ctas")
        )
        steps = b.op("ashr", addresses, CLUSTER_STRIDE.bit_length() - 1)
        return b.compare("icmp uge", b.op("add", steps, b.vector(rank)), ctas)

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
        name, start = f"bounds_shared_{run.kind}_16", run.address
        if self.subject.clustered:
            mask = b.op("and", mask, invert(b, b.mask(self._of_no_cta(b, start))))
            start = b.op("and", start, CLUSTER_STRIDE - 1)
        for address in (start, b.op("add", start, behind)):
            mask = word(b.call(name, "i32", address, mask, *at_site(run.ins)))
        return mask

    def far(self, b: Builder, run: Run, mask: Value) -> Value:
        """Test the alignment of the first 16 bytes, and the whole run."""
        kind, here = run.kind, at_site(run.ins)
        mask = word(b.call(f"bounds_global_{kind}_16", "i32", run.address, mask, *here))
        return word(b.call(f"runs_{kind}", "i32", run.address, run.sizes, mask, *here))

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
    if space == "shared" or access == "store":
        c.ret_if(c.compare("icmp eq", bad, 0), mask)
    else:
        with c.when(c.compare("icmp eq", bad, 0)):
            distance = c.load("i64", 1, site, SITE_WRITTEN, 8)
            c.ret_if(c.compare("icmp eq", distance, 0), mask)
            written, part = c.op("add", address, distance), min(size, 8)
            ones = c.constant(f"i{8 * part}", int.from_bytes(part * b"\1", "little"))
            places = [c.pointer(c.op("add", written, i)) for i in range(0, size, part)]
            some = [c.gather(ones.type, place, c.lanes(mask), ones, 1) for place in places]
            every = reduce(lambda x, y: c.op("and", x, y), some)
            blank = c.mask(c.compare("icmp ne", every, c.vector(ones)))
            c.ret_if(c.compare("icmp eq", blank, 0), mask)
    judge = f"judge_global_{access}" if space == "global" else "judge_shared"
    c.ret(word(c.call(judge, "i32", address, mask, c.constant("i32", size), *c.here)))


def _site(c: Code) -> Value:
    """Address of the note of the array that the instruction hit last."""
    number = c.op("mul", c.cast("zext", c.site, "i64"), SITE_BYTES)
    return c.item("i8", c.field("sites"), number)


@code("judge")
def judge(c: Code, space: str, access: str = "") -> None:
    """Judge lane after lane; record what is not allowed. Of local memory `access` is the size."""
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

    found, area, problem = find(c, access, place, fits)
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
    distance = c.constant("i64", 0)
    if access != "store":
        with c.when(has_blanks(c, area)) as blank:
            offset = c.op("sub", place, start)
            first, _ = unwritten(c, area, offset, c.op("add", offset, size))
            with c.when(c.compare("icmp ne", first, c.op("add", offset, size))):
                c.record("uninitialised-global", lane, place, nbytes)
            blank.give(c.op("sub", c.cast("ptrtoint", c.of_area(area, "written"), "i64"), start))
        distance = blank.otherwise(distance)
    up = c.op("add", start, c.op("add", size, -1))
    first = c.op("and", up, c.op("sub", c.constant("i64", 0), size))
    site = _site(c)
    c.store(first, site, 0, 8)
    c.store(c.op("udiv", c.op("sub", end, first), size), site, 8, 8)
    c.store(distance, site, SITE_WRITTEN, 8)
    lanes.next(masks[1])


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


def own(
    library: Library,
    arrays: Mapping[str, Array],
    layout: Layout,
    local_bytes: int,
    parameter_bytes: int,
) -> str:
    """The function `own` of one entry. local_bytes: of local memory that a thread may use.

    parameter_bytes: of the parameter block, of which addresses may be taken.
    """
    c = Code(library, "own")
    place, size, lane = c.takes("i64", "i64", "i32")
    c.goes()
    start = c.op("add", c.op("mul", lane, layout.local_bytes), layout.local)
    places = [
        (c.of_worker("shared"), c.cast("zext", c.field("limit"), "i64")),
        (c.item("i8", c.ctx, start), c.constant("i64", local_bytes)),
        (c.of_worker("params"), c.constant("i64", parameter_bytes)),
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
