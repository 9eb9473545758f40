"""Helper that counts epochs: the stretches between the barriers of a CTA.

epoch_<init>_<race>(checks, moves, fresh): where it moves, a CTA begins (fresh) or all its warps
    passed a barrier
"""

from __future__ import annotations

from ..library import Helpers, family
from .state import LAST_EPOCH, STEP, load_field


@family("epoch")
def epoch(helpers: Helpers, name: str, init: str, race: str) -> str:
    """Without "race" no tag is of this epoch, without "init" every tag is of this CTA."""
    helpers.declare("void @llvm.memset.p0.i64(ptr, i8, i64, i1)")
    keep_base = "  store i32 %base.next, ptr %base.at, align 4\n" if init == "1" else ""
    keep_now = "  store i32 %next, ptr %now.at, align 4\n" if race == "1" else ""
    fields = "".join(load_field(field, "i32") for field in ("stamp", "now", "base"))
    return f"""
define internal void @{name}(ptr %checks, i1 %moves, i1 %fresh) #0 {{
  br i1 %moves, label %move, label %over
over:
  ret void
move:
{fields}  %late = icmp uge i32 %stamp, {LAST_EPOCH}
  %wraps = and i1 %late, %fresh
  br i1 %wraps, label %clear, label %count
clear:
{load_field("tags", "ptr")}{load_field("tag_bytes", "i64")}\
  call void @llvm.memset.p0.i64(ptr %tags, i8 0, i64 %tag_bytes, i1 false)
  br label %count
count:
  %from = phi i32 [ %stamp, %move ], [ 0, %clear ]
  %next = add i32 %from, {STEP}
  store i32 %next, ptr %stamp.at, align 4
  %base.next = select i1 %fresh, i32 %next, i32 %base
{keep_base}{keep_now}  ret void
}}
"""
