"""Helper of the check "init" for registers: which lanes have written one.

    registers(mask, checks, ctx, site): record lanes that read a register that they never wrote

Only registers that the flow of the entry does not prove to be written first are watched; Triton's
code has none of them, so this costs nothing there.
"""

from __future__ import annotations

from ..library import Helpers, family
from .memory import KIND
from .records import ARGUMENTS, visit


@family("registers")
def registers(helpers: Helpers, name: str) -> str:
    record = helpers.use("record")
    helpers.declare("i32 @llvm.cttz.i32(i32, i1)")
    return f"""
define internal void @{name}(i32 %mask, {ARGUMENTS}) #0 {{
  %none = icmp eq i32 %mask, 0
  br i1 %none, label %over, label %report
over:
  ret void
report:
{visit()}  br label %next
next:
  %left = phi i32 [ %mask, %report ], [ %rest, %next ]
  %lane = call i32 @llvm.cttz.i32(i32 %left, i1 true)
  call void @{record}(ptr %checks, ptr %ctx, i32 %site, i32 {KIND["uninitialised-register"]}, i32 %lane, i64 0, i32 0, i32 0)
  %less = add i32 %left, -1
  %rest = and i32 %left, %less
  %done = icmp eq i32 %rest, 0
  br i1 %done, label %over, label %next
}}
"""  # noqa: E501
