"""Bulk copies: each lane that takes part moves any number of bytes.

bulk_<in|out>(base, shared addresses, global addresses, sizes, mask): in: to shared memory
"""

from __future__ import annotations

from ..library import Helpers, family
from .access import pointer


@family("bulk")
def bulk(helpers: Helpers, name: str, way: str) -> str:
    helpers.declare("i32 @llvm.cttz.i32(i32, i1)")
    helpers.declare("void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)")
    to, source = ("%near", "%far") if way == "in" else ("%far", "%near")
    v = "<32 x i32>"
    return f"""
define internal void @{name}(ptr %base, {v} %shared, <32 x i64> %global, {v} %size, i32 %mask) #0 {{
  br label %test
test:
  %left = phi i32 [ %mask, %0 ], [ %rest, %next ]
  %none = icmp eq i32 %left, 0
  br i1 %none, label %end, label %next
end:
  ret void
next:
  %lane = call i32 @llvm.cttz.i32(i32 %left, i1 true)
  %place = extractelement {v} %shared, i32 %lane
  %address = extractelement <32 x i64> %global, i32 %lane
  %bytes = extractelement {v} %size, i32 %lane
  %length = zext i32 %bytes to i64
  %near = {pointer("shared", "%place")}
  %far = {pointer("global", "%address")}
  call void @llvm.memcpy.p0.p0.i64(ptr {to}, ptr {source}, i64 %length, i1 false)
  %less = add i32 %left, -1
  %rest = and i32 %left, %less
  br label %test
}}
"""
