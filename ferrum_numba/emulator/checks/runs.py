"""Helpers of the check "memory" for runs of bytes of any length, which bulk copies touch.

    runs_<load|store>(addresses, sizes, mask, checks, ctx, site) -> lanes whose run may be touched
    boxruns_<in|out>_<rank>(shared addresses, map addresses, coordinates, mask, checks, ctx, site)
        -> lanes of whose box every row that lies in the tensor may be touched (helpers/tensors.py)
    run_<load|store>(address, size, lane, checks, ctx, site) -> i1: whether one run may be

A run may go on from one array to the next where they touch.
"""

from __future__ import annotations

from ..helpers.tensors import BOX, each_box, row_of_box
from ..library import Helpers, family
from .lanes import ALLOW, NONE_ALLOWED, find_usable, judge_each_lane
from .records import ARGUMENTS, visit
from .state import SCRATCH, load_area, number_of

_CALL = "ptr %checks, ptr %ctx, i32 %site"


@family("runs")
def runs(helpers: Helpers, name: str, access: str) -> str:
    run = helpers.use(f"run_{access}")
    return f"""
define internal i32 @{name}(<32 x i64> %address, <32 x i32> %size, i32 %mask, {ARGUMENTS}) #0 {{
{judge_each_lane(helpers, "i64")}  %nbytes.word = extractelement <32 x i32> %size, i32 %lane
  %nbytes = zext i32 %nbytes.word to i64
  %fine = call i1 @{run}(i64 %place, i64 %nbytes, i32 %lane, {_CALL})
  br i1 %fine, label %allow, label %next
{ALLOW}}}
"""


@family("boxruns")
def box_runs(helpers: Helpers, name: str, way: str, rank_text: str) -> str:
    """On the way out the last 16 bytes of a row are written as a whole."""
    rank = int(rank_text)
    for declaration in ("i32 @llvm.cttz.i32(i32, i1)", "i64 @llvm.smax.i64(i64, i64)"):
        helpers.declare(declaration)
    helpers.declare("i64 @llvm.smin.i64(i64, i64)")
    run = helpers.use(f"run_{'load' if way == 'in' else 'store'}")
    row, inside, start = row_of_box(rank)
    rows, product = "1", ""
    for d in range(1, rank):
        product += f"  %rows{d} = mul i64 {rows}, %box{d}\n"
        rows = f"%rows{d}"
    whole = 0 if way == "in" else 15
    return f"""
define internal i32 @{name}({BOX}, {ARGUMENTS}) #0 {{
{NONE_ALLOWED}{visit()}{each_box(rank)}{product}  %low = call i64 @llvm.smax.i64(i64 %c0, i64 0)
  %end = add i64 %c0, %box0
  %high = call i64 @llvm.smin.i64(i64 %end, i64 %dim0)
  %some = icmp slt i64 %low, %high
  %low.bytes = shl i64 %low, %log2
  %high.bytes = shl i64 %high, %log2
  %high.up = add i64 %high.bytes, {whole}
  %high.whole = and i64 %high.up, {~whole}
  %nbytes = sub i64 %high.whole, %low.bytes
  br i1 %some, label %each, label %allow
each:
  %number = phi i64 [ 0, %begin ], [ %number.next, %on ]
  %more = icmp ult i64 %number, {rows}
  br i1 %more, label %look, label %allow
look:
{row}  br i1 {inside}, label %try, label %on
try:
  %from = add i64 {start}, %low.bytes
  %fine = call i1 @{run}(i64 %from, i64 %nbytes, i32 %lane, {_CALL})
  br i1 %fine, label %on, label %next
on:
  %number.next = add i64 %number, 1
  br label %each
{ALLOW}}}
"""


@family("run")
def run(helpers: Helpers, name: str, access: str) -> str:
    """Array after array; what is recorded is the whole run.

    A read of scratch memory that nobody wrote is recorded and goes on, as with other accesses.
    """
    record = helpers.use("record")
    helpers.declare("i64 @llvm.umin.i64(i64, i64)")
    inside = "  %inside = icmp ult i64 %offset, %length\n"
    return f"""
define internal i1 @{name}(i64 %address, i64 %nbytes, i32 %lane, {ARGUMENTS}) #0 {{
  %behind = add i64 %address, %nbytes
  br label %part
part:
  %place = phi i64 [ %address, %0 ], [ %end, %on ]
  %left = sub i64 %behind, %place
{find_usable(helpers, access, inside, "%left", before="part")}\
refuse:
  %size = trunc i64 %nbytes to i32
  call void @{record}({_CALL}, i32 %problem, i32 %lane, i64 %address, i32 %size, i32 0)
  ret i1 false
allow:
  ret i1 true
found:
  %to.end = sub i64 %end, %place
{_written(record) if access == "load" else "  br label %on"}
on:
  %whole = icmp uge i64 %to.end, %left
  br i1 %whole, label %allow, label %part
}}
"""


def _written(record: str) -> str:
    """Lines that record the first bytes of scratch memory that the part reads and nobody wrote."""
    return f"""  %scratch.bits = and i32 %flags, {SCRATCH}
  %scratch = icmp ne i32 %scratch.bits, 0
  br i1 %scratch, label %shadowed, label %on
shadowed:
{load_area("shadow")}  %here = call i64 @llvm.umin.i64(i64 %to.end, i64 %left)
  %last = add i64 %offset, %here
  br label %byte
byte:
  %byte.i = phi i64 [ %offset, %shadowed ], [ %byte.next, %look ]
  %first = phi i64 [ %last, %shadowed ], [ %first.next, %look ]
  %byte.done = icmp uge i64 %byte.i, %last
  br i1 %byte.done, label %looked, label %look
look:
  %mark.at = getelementptr i32, ptr %shadow, i64 %byte.i
  %mark = load i32, ptr %mark.at, align 4
  %marked = icmp ne i32 %mark, 0
  %first.less = call i64 @llvm.umin.i64(i64 %first, i64 %byte.i)
  %first.next = select i1 %marked, i64 %first, i64 %first.less
  %byte.next = add i64 %byte.i, 1
  %stretch = icmp ne i64 %first.next, %last
  %closes = and i1 %stretch, %marked
  br i1 %closes, label %looked, label %byte
looked:
  %none = icmp eq i64 %first, %last
  br i1 %none, label %on, label %unwritten
unwritten:
  %unwritten.from = add i64 %start, %first
  %unwritten.long = sub i64 %byte.i, %first
  %unwritten.size = trunc i64 %unwritten.long to i32
  call void @{record}({_CALL}, i32 {number_of("uninitialised-scratch")}, i32 %lane, i64 %unwritten.from, i32 %unwritten.size, i32 0)
  br label %on
"""  # noqa: E501
