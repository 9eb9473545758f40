"""Atomic operations of 32 lanes, one lane after another.

    atomic_<operation>_<type>_<space>(base, addresses, values, others, mask) -> <32 x i<bits>>:
        what was there before; others: what cas stores

Lanes that hit one place do so in order.  Threads of the host may run CTAs side by side, hence
atomic instructions.  Source: PTX ISA, "atom".
"""

from __future__ import annotations

from ..library import Helpers, family
from .access import ADDRESS, pointer

_INSTRUCTIONS = {
    "add": "add",
    "and": "and",
    "or": "or",
    "xor": "xor",
    "exch": "xchg",
    "inc": "uinc_wrap",
    "dec": "udec_wrap",
}


@family("atomic")
def atomic(helpers: Helpers, name: str, operation: str, ptx_type: str, space: str) -> str:
    bits = 16 if ptx_type == "bf16" else int(ptx_type[1:])
    kind, item = ADDRESS[space], f"i{bits}"
    helpers.declare("i32 @llvm.cttz.i32(i32, i1)")
    vector = f"<32 x {item}>"
    return f"""
define internal {vector} @{name}(ptr %base, <32 x {kind}> %address, {vector} %value, {vector} %other, i32 %mask) #0 {{
  %places = alloca [32 x {kind}], align 64
  %values = alloca {vector}, align 64
  %others = alloca {vector}, align 64
  %olds = alloca {vector}, align 64
  store <32 x {kind}> %address, ptr %places, align 64
  store {vector} %value, ptr %values, align 64
  store {vector} %other, ptr %others, align 64
  store {vector} zeroinitializer, ptr %olds, align 64
  br label %test
test:
  %left = phi i32 [ %mask, %0 ], [ %rest, %done ]
  %none = icmp eq i32 %left, 0
  br i1 %none, label %end, label %lane
lane:
  %index = call i32 @llvm.cttz.i32(i32 %left, i1 true)
  %place.at = getelementptr {kind}, ptr %places, i32 %index
  %place = load {kind}, ptr %place.at
  %there = {pointer(space, "%place")}
  %item.at = getelementptr {item}, ptr %values, i32 %index
  %item = load {item}, ptr %item.at
{_change(helpers, operation, ptx_type, space, bits)}  br label %done
done:
  %old.at = getelementptr {item}, ptr %olds, i32 %index
  store {item} %old, ptr %old.at
  %less = add i32 %left, -1
  %rest = and i32 %left, %less
  br label %test
end:
  %result = load {vector}, ptr %olds, align 64
  ret {vector} %result
}}
"""  # noqa: E501


def _change(helpers: Helpers, operation: str, ptx_type: str, space: str, bits: int) -> str:
    """Lines that change the value at %there and set %old."""
    item, align = f"i{bits}", bits // 8
    if operation == "cas":
        return f"""  %new.at = getelementptr {item}, ptr %others, i32 %index
  %new = load {item}, ptr %new.at
  %pair = cmpxchg ptr %there, {item} %item, {item} %new seq_cst seq_cst, align {align}
  %old = extractvalue {{ {item}, i1 }} %pair, 0
"""
    if operation == "add" and ptx_type in ("f32", "f64", "f16", "bf16"):
        return f"""  %first = load atomic {item}, ptr %there monotonic, align {align}
  br label %again
again:
  %seen = phi {item} [ %first, %lane ], [ %old, %again ]
{_sum(helpers, ptx_type, space)}  %pair = cmpxchg ptr %there, {item} %seen, {item} %new seq_cst seq_cst, align {align}
  %old = extractvalue {{ {item}, i1 }} %pair, 0
  %same = extractvalue {{ {item}, i1 }} %pair, 1
  br i1 %same, label %changed, label %again
changed:
"""  # noqa: E501
    instruction = _INSTRUCTIONS.get(operation) or ("u" if ptx_type[0] == "u" else "") + operation
    return f"  %old = atomicrmw {instruction} ptr %there, {item} %item seq_cst, align {align}\n"


def _sum(helpers: Helpers, ptx_type: str, space: str) -> str:
    """Lines that add %item to %seen, both as bits, and set %new."""
    if ptx_type == "f64":
        return """  %x = bitcast i64 %seen to double
  %y = bitcast i64 %item to double
  %z = fadd double %x, %y
  %new = bitcast double %z to i64
"""
    if ptx_type == "f32":
        if space == "shared":
            return _floats("%seen", "%item") + "  %new = bitcast float %z to i32\n"
        # In global memory .f32 flushes denormals; in shared memory it does not.
        return (
            _flushed("seen.f", "%seen")
            + _flushed("item.f", "%item")
            + _floats("%seen.f", "%item.f")
            + "  %raw = bitcast float %z to i32\n"
            + _flushed("new", "%raw")
        )
    if ptx_type == "bf16":
        return f"""  %seen.z = zext i16 %seen to i32
  %seen.f = shl i32 %seen.z, 16
  %item.z = zext i16 %item to i32
  %item.f = shl i32 %item.z, 16
{_floats("%seen.f", "%item.f")}  %raw = bitcast float %z to i32
  %down = lshr i32 %raw, 16
  %odd = and i32 %down, 1
  %near = add i32 %raw, 32767
  %rounded = add i32 %near, %odd
  %nan = fcmp uno float %z, %z
  %kept = select i1 %nan, i32 2147418112, i32 %rounded
  %high = lshr i32 %kept, 16
  %new = trunc i32 %high to i16
"""
    if helpers.host.half_conversion:
        return """  %x.h = bitcast i16 %seen to half
  %y.h = bitcast i16 %item to half
  %z.h = fadd half %x.h, %y.h
  %new = bitcast half %z.h to i16
"""
    widen, narrow = helpers.use("widen_half"), helpers.use("narrow_half")
    return f"""  %x.one = insertelement <32 x i16> zeroinitializer, i16 %seen, i64 0
  %y.one = insertelement <32 x i16> zeroinitializer, i16 %item, i64 0
  %x = call <32 x float> @{widen}(<32 x i16> %x.one)
  %y = call <32 x float> @{widen}(<32 x i16> %y.one)
  %z = fadd <32 x float> %x, %y
  %z.h = call <32 x i16> @{narrow}(<32 x float> %z)
  %new = extractelement <32 x i16> %z.h, i64 0
"""


def _floats(x: str, y: str) -> str:
    return f"""  %x = bitcast i32 {x} to float
  %y = bitcast i32 {y} to float
  %z = fadd float %x, %y
"""


def _flushed(name: str, bits: str) -> str:
    return f"""  %{name}.e = and i32 {bits}, 2139095040
  %{name}.s = and i32 {bits}, -2147483648
  %{name}.d = icmp eq i32 %{name}.e, 0
  %{name} = select i1 %{name}.d, i32 %{name}.s, i32 {bits}
"""
