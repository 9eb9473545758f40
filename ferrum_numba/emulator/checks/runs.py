"""Runs of bytes, as bulk copies touch them: of one lane after another.

runs_<access>(addresses, sizes, mask, checks, ctx, site) -> lanes whose run may be touched
boxruns_<in|out>_<rank>(shared addresses, map addresses, coordinates, mask, checks, ctx, site)
    -> lanes of whose box every row that lies in the tensor may be touched (runtime/tensors.py)
run_<access>(address, size, lane, checks, ctx, site) -> i1: whether one run of bytes may be, which
    may go on from one array to the next where they touch

access: "load", "store" or "atomic".
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..layout import LANES
from ..routine import VECTOR
from ..runtime.access import ADDRESSES
from ..runtime.tensors import BOX
from ..runtime.tensors import Box as BoxOfLane
from ..values import Value
from .code import Code, code
from .state import WRITABLE, Area, number_of


def find(
    c: Code, access: str, place: Value, fits: Callable[[Value, Value], Value]
) -> tuple[Value, Value, Value]:
    """Find the array that may be accessed in this way; else the kind of error.

    fits: says by an offset and the array's length, in bytes, whether it is the one.
    Where the instruction's addresses are all of one array (owners), that is the only one.
    """
    areas, every = c.field("areas"), c.field("area_count")
    owner = c.load("i32", 1, c.item("i32", c.field("owners"), c.site), 0, 4)
    any_of_them = c.compare("icmp eq", owner, 0)
    count = c.select(any_of_them, every, owner)
    start = c.select(any_of_them, c.constant("i32", 0), c.op("sub", owner, 1))
    loop = c.loop(start, c.constant("i32", number_of("out-of-bounds")))
    with loop as (i, problem):
        loop.leave(c.compare("icmp uge", i, count), i, problem)
        area = c.item("i8", areas, c.op("mul", i, ctypes.sizeof(Area)))
        start = c.of_area(area, "start")
        length = c.op("sub", c.of_area(area, "end"), start)
        inside = usable = fits(c.op("sub", place, start), length)
        if access != "load":
            flags = c.op("and", c.of_area(area, "flags"), WRITABLE)
            usable = c.op("and", inside, c.compare("icmp ne", flags, 0))
        loop.leave(usable, i, problem)
        read_only = c.constant("i32", number_of("read-only"))
        loop.again(c.op("add", i, 1), c.select(inside, read_only, problem))
    number, problem = loop.results
    area = c.item("i8", areas, c.op("mul", number, ctypes.sizeof(Area)))
    return c.compare("icmp ult", number, count), area, problem


def has_blanks(c: Code, area: Value) -> Value:
    """True if there may be bytes that nobody has written."""
    return c.compare("icmp ne", c.of_area(area, "written"), Value("null", "ptr"))


def unwritten(c: Code, area: Value, offset: Value, end: Value) -> tuple[Value, Value]:
    """The first stretch of bytes that nobody wrote; its start is `end` for none."""
    all_written = c.of_area(area, "written")
    loop = c.loop(offset, end)
    with loop as (i, first):
        loop.leave(c.compare("icmp uge", i, end), i, first)
        its = c.load("i8", 1, c.item("i8", all_written, i), 0, 1)
        written, begun = c.compare("icmp ne", its, 0), c.compare("icmp ne", first, end)
        loop.leave(c.op("and", written, begun), i, first)
        begins = c.op("or", written, begun)
        loop.again(c.op("add", i, 1), c.select(begins, first, i))
    behind, first = loop.results
    return first, behind


@code("run")
def run(c: Code, access: str) -> None:
    """Test a run array after array; what is recorded is the whole of it.

    A read of what nobody wrote is recorded and goes on, as with other accesses.
    """
    address, nbytes, lane = c.takes("i64", "i64", "i32")
    c.looks()
    behind = c.op("add", address, nbytes)
    loop = c.loop(address)
    with loop as (place,):
        left = c.op("sub", behind, place)
        found, area, problem = find(
            c, access, place, lambda offset, length: c.compare("icmp ult", offset, length)
        )
        with c.when(c.invert(found)):
            own = Value(c.call("own", "i1", place, left, lane, c.checks, c.ctx), "i1")
            c.ret_if(own, own)
            c.record(problem, lane, address, c.cast("trunc", nbytes, "i32"))
            c.ret(own)
        end = c.of_area(area, "end")
        to_end = c.op("sub", end, place)
        if access != "store":
            with c.when(has_blanks(c, area)):
                start = c.of_area(area, "start")
                offset = c.op("sub", place, start)
                last = c.op("add", offset, c.intrinsic("llvm.umin", to_end, left))
                first, behind_first = unwritten(c, area, offset, last)
                with c.when(c.compare("icmp ne", first, last)):
                    size = c.cast("trunc", c.op("sub", behind_first, first), "i32")
                    c.record("uninitialised-global", lane, c.op("add", start, first), size)
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


@contextmanager
def pieces(c: Code, space: str) -> Iterator[tuple[Value, Value]]:
    """Block of a function of runs of bytes, for 512 of them at a time: 16 bytes a lane, and mask.

    The function takes addresses, sizes, mask, checks, ctx, site.
    """
    address, size, mask = c.takes(ADDRESSES[space], VECTOR, "i32")
    c.looks()
    places, sizes = c.spread(address), c.spread(size)
    with c.each_lane(mask) as (lane,):
        place, nbytes = places(lane), sizes(lane)
        loop = c.loop(c.constant("i32", 0))
        with loop as (i,):
            loop.leave(c.compare("icmp uge", i, nbytes))
            start = c.op("add", place, c.cast("zext", i, place.type))
            at = c.op("add", c.vector(start), c.iota(place.type, 16))
            yield at, _chunks(c, c.op("sub", nbytes, i))
            loop.again(c.op("add", i, 512))


def _chunks(c: Code, nbytes: Value) -> Value:
    """A mask of the first 16-byte chunks that so many bytes fill, at most 32."""
    count = c.op("lshr", nbytes, 4)
    few = c.op("sub", c.op("shl", c.constant("i32", 1), count), 1)
    return c.select(c.compare("icmp uge", count, LANES), c.constant("i32", -1), few)
