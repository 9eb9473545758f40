"""Pieces of helpers that go lane after lane, and array after array."""

from __future__ import annotations

import ctypes

from ..library import Helpers
from .records import visit
from .state import WRITABLE, Area, load_area, load_field, number_of


def each_lane(helpers: Helpers, kind: str, before: str = "0") -> str:
    """Lines that begin a loop over the lanes of %mask, with %lane and its address %place.

    It begins behind the block %<before>; the body ends with a jump to %next, and %over is what
    comes when all are done.
    """
    helpers.declare("i32 @llvm.cttz.i32(i32, i1)")
    return f"""  br label %test
test:
  %left = phi i32 [ %mask, %{before} ], [ %rest, %next ]
  %done = icmp eq i32 %left, 0
  br i1 %done, label %over, label %begin
next:
  %less = add i32 %left, -1
  %rest = and i32 %left, %less
  br label %test
begin:
  %lane = call i32 @llvm.cttz.i32(i32 %left, i1 true)
  %place.at = getelementptr {kind}, ptr %places, i32 %lane
  %place = load {kind}, ptr %place.at
"""


NONE_ALLOWED = """  %allowed.at = alloca i32, align 4
  store i32 0, ptr %allowed.at, align 4
"""
# The blocks %allow, which lets %lane pass, and %over, which returns all lanes that may.
ALLOW = """allow:
  %bit = shl i32 1, %lane
  %allowed.old = load i32, ptr %allowed.at, align 4
  %allowed.new = or i32 %allowed.old, %bit
  store i32 %allowed.new, ptr %allowed.at, align 4
  br label %next
over:
  %allowed = load i32, ptr %allowed.at, align 4
  ret i32 %allowed
"""


def judge_each_lane(helpers: Helpers, kind: str) -> str:
    """Lines that begin a helper which returns the lanes of %mask that may access %address.

    The body begins as that of `each_lane` and ends with a jump to %allow or %next; `ALLOW` follows.
    """
    return f"""  %places = alloca [32 x {kind}], align 64
  store <32 x {kind}> %address, ptr %places, align 64
{NONE_ALLOWED}{visit()}{each_lane(helpers, kind)}"""


def find_usable(helpers: Helpers, access: str, inside: str, nbytes: str, before: str) -> str:
    """Lines that go to %found where %place lies in an array that may be accessed in this way.

    inside: lines that say by %offset and %length, both in bytes, whether it is %inside.
    nbytes: how many bytes are accessed.  before: the block that these lines begin in.
    Sets %area, %start, %end, %flags and %offset.  Goes to %allow where the module's own memory is
    accessed, and else, with what is wrong as %problem, from the block %module to %refuse.
    """
    usable = f"and i32 %flags, {WRITABLE}" if access == "store" else "or i32 %flags, 1"
    return f"""{load_field("areas", "ptr")}{load_field("area_count", "i32")}  br label %search
search:
  %i = phi i32 [ 0, %{before} ], [ %i.next, %other ]
  %problem = phi i32 [ {number_of("out-of-bounds")}, %{before} ], [ %problem.next, %other ]
  %past = icmp uge i32 %i, %area_count
  br i1 %past, label %module, label %try
module:
  %own = call i1 @{helpers.use("own")}(i64 %place, i64 {nbytes}, i32 %lane, ptr %checks, ptr %ctx)
  br i1 %own, label %allow, label %refuse
try:
  %area.offset = mul i32 %i, {ctypes.sizeof(Area)}
  %area = getelementptr i8, ptr %areas, i32 %area.offset
{load_area("start", "end", "flags")}  %length = sub i64 %end, %start
  %offset = sub i64 %place, %start
{inside}  %usable.bits = {usable}
  %usable = icmp ne i32 %usable.bits, 0
  %good = and i1 %inside, %usable
  br i1 %good, label %found, label %other
other:
  %problem.next = select i1 %inside, i32 {number_of("read-only")}, i32 %problem
  %i.next = add i32 %i, 1
  br label %search
"""


def find_area(shadow: str) -> str:
    """Lines that go to %found where %place lies in an array that has a shadow, else to %next.

    shadow: which field of Area that is.  Sets %area, %<shadow>, %offset, and %from and %to, the
    elements of it that %nbytes bytes from there cover; a piece of a bulk copy may go on behind it.
    %hint: where the number of the array is kept that was found last.
    """
    return f"""{load_field("areas", "ptr")}{load_field("area_count", "i32")}\
  %hint.now = load i32, ptr %hint
  br label %search
search:
  %i.raw = phi i32 [ %hint.now, %begin ], [ %i.next, %again ]
  %tried = phi i32 [ 0, %begin ], [ %tried.next, %again ]
  %wraps = icmp uge i32 %i.raw, %area_count
  %i = select i1 %wraps, i32 0, i32 %i.raw
  %past = icmp uge i32 %tried, %area_count
  br i1 %past, label %next, label %try
again:
  %i.next = add i32 %i, 1
  %tried.next = add i32 %tried, 1
  br label %search
try:
  %area.offset = mul i32 %i, {ctypes.sizeof(Area)}
  %area = getelementptr i8, ptr %areas, i32 %area.offset
{load_area("start", "end", shadow, "granule")}  %length = sub i64 %end, %start
  %offset = sub i64 %place, %start
  %inside = icmp ult i64 %offset, %length
  br i1 %inside, label %here, label %again
here:
  store i32 %i, ptr %hint
  %shadowed = icmp ne ptr %{shadow}, null
  br i1 %shadowed, label %found, label %next
found:
  %shift = zext i32 %granule to i64
  %behind = add i64 %offset, %nbytes
  %in.area = icmp ult i64 %behind, %length
  %final.0 = select i1 %in.area, i64 %behind, i64 %length
  %final = add i64 %final.0, -1
  %from = lshr i64 %offset, %shift
  %to = lshr i64 %final, %shift
"""
