"""mbarrier objects: 64 bits of shared memory, changed by 32 lanes, one lane after another.

    mbarrier(base, addresses, arrivals, dropped, bytes, mask) -> <32 x i64>: the words before:
        arrivals: that come; dropped: that no later phase expects; bytes: more to wait for, or fewer

A word holds, from bit 0: 20 bits arrivals that are pending, 20 that a phase expects, 21 bytes that
are still to come (signed), and at bit 61 the phase's parity.  PTX leaves the form open.
Source: PTX ISA, "Parallel Synchronization: mbarrier".
"""

from __future__ import annotations

from ..library import Helpers, family
from .access import pointer

EXPECTED, BYTES, PHASE = 20, 40, 61  # the first bits of the fields; PENDING is 0
COUNT = (1 << 20) - 1  # the most arrivals, and the mask of their fields


@family("mbarrier")
def mbarrier(helpers: Helpers, name: str) -> str:
    helpers.declare("i32 @llvm.cttz.i32(i32, i1)")
    v = "<32 x i32>"
    allocas = stores = loads = ""
    for field in ("address", "arrivals", "dropped", "bytes"):
        allocas += f"  %{field}.all = alloca {v}, align 64\n"
        stores += f"  store {v} %{field}, ptr %{field}.all, align 64\n"
        loads += (
            f"  %{field}.at = getelementptr i32, ptr %{field}.all, i32 %lane\n"
            f"  %{field}.one = load i32, ptr %{field}.at\n"
        )
    return f"""
define internal <32 x i64> @{name}(ptr %base, {v} %address, {v} %arrivals, {v} %dropped, {v} %bytes, i32 %mask) #0 {{
{allocas}  %words = alloca <32 x i64>, align 64
{stores}  store <32 x i64> zeroinitializer, ptr %words, align 64
  br label %test
test:
  %left = phi i32 [ %mask, %0 ], [ %rest, %next ]
  %none = icmp eq i32 %left, 0
  br i1 %none, label %end, label %next
end:
  %result = load <32 x i64>, ptr %words, align 64
  ret <32 x i64> %result
next:
  %lane = call i32 @llvm.cttz.i32(i32 %left, i1 true)
{loads}  %there = {pointer("shared", "%address.one")}
  %word = load i64, ptr %there, align 1
  %word.to = getelementptr i64, ptr %words, i32 %lane
  store i64 %word, ptr %word.to
  %pending = and i64 %word, {COUNT}
  %expected.up = lshr i64 %word, {EXPECTED}
  %expected = and i64 %expected.up, {COUNT}
  %tx.up = shl i64 %word, {64 - PHASE}
  %tx = ashr i64 %tx.up, {64 - PHASE + BYTES}
  %phase = lshr i64 %word, {PHASE}
  %arrivals.wide = zext i32 %arrivals.one to i64
  %dropped.wide = zext i32 %dropped.one to i64
  %bytes.wide = sext i32 %bytes.one to i64
  %pending.less = sub i64 %pending, %arrivals.wide
  %expected.less = sub i64 %expected, %dropped.wide
  %tx.more = add i64 %tx, %bytes.wide
  %open = or i64 %pending.less, %tx.more
  %complete = icmp eq i64 %open, 0
  %flip = zext i1 %complete to i64
  %pending.next = select i1 %complete, i64 %expected.less, i64 %pending.less
  %phase.next = xor i64 %phase, %flip
  %field0 = and i64 %pending.next, {COUNT}
  %field1.in = and i64 %expected.less, {COUNT}
  %field1 = shl i64 %field1.in, {EXPECTED}
  %field2.in = and i64 %tx.more, {(1 << PHASE - BYTES) - 1}
  %field2 = shl i64 %field2.in, {BYTES}
  %field3 = shl i64 %phase.next, {PHASE}
  %with1 = or i64 %field0, %field1
  %with2 = or i64 %with1, %field2
  %with3 = or i64 %with2, %field3
  store i64 %with3, ptr %there, align 1
  %less = add i32 %left, -1
  %rest = and i32 %left, %less
  br label %test
}}
"""  # noqa: E501
