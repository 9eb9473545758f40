"""Helper of the check "memory": addresses that are no array's of the launch, and yet may be used.

    own(address, bytes, lane, checks, ctx) -> i1

They are those of the module's own arrays, and generic addresses of the CTA's shared memory and of
the lane's local memory.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..layout import Layout, state_offset
from ..ptx import Array
from .memory import load_field


def own(arrays: Mapping[str, Array], layout: Layout, local_bytes: int) -> str:
    """The function, for one entry. local_bytes: of local memory that a thread may use."""
    lines = f"""{load_field("limit", "i32")}{load_field("worker", "ptr")}\
  %shared.at = getelementptr i8, ptr %worker, i64 {state_offset("shared")}
  %shared = load ptr, ptr %shared.at, align 8
  %shared.bytes = zext i32 %limit to i64
  %lane.bytes = mul i32 %lane, {layout.local_bytes}
  %local.offset = add i32 %lane.bytes, {layout.local}
  %local = getelementptr i8, ptr %ctx, i32 %local.offset
"""
    places = [("%shared", "%shared.bytes"), ("%local", str(local_bytes))]
    places += [(f'@"array.{name}"', str(len(array.content))) for name, array in arrays.items()]
    last = "false"
    for i, (start, nbytes) in enumerate(places):
        lines += f"""  %start{i} = ptrtoint ptr {start} to i64
  %offset{i} = sub i64 %place, %start{i}
  %end{i} = add i64 %offset{i}, %size
  %near{i} = icmp ult i64 %offset{i}, {nbytes}
  %fits{i} = icmp ule i64 %end{i}, {nbytes}
  %in{i} = and i1 %near{i}, %fits{i}
  %any{i} = or i1 {last}, %in{i}
"""
        last = f"%any{i}"
    head = "define internal i1 @own(i64 %place, i64 %size, i32 %lane, ptr %checks, ptr %ctx) #0 {"
    return f"{head}\n{lines}  ret i1 {last}\n}}\n"
