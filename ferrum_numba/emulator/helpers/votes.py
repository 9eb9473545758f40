"""What each lane learns of the lanes that its member mask names.

    redux_<operation>(values, members, mask) -> <32 x i32>: operation add, umin, smin, umax, smax,
        and, or, xor
    match_<bits>(values, members, mask) -> <32 x i32>: which of them have this lane's value

mask: the lanes that execute the instruction.  Lanes of several masks may come together.
Source: PTX ISA, "redux.sync", "match.sync".
"""

from __future__ import annotations

from ..library import Helpers, family

_NEUTRAL = {"umin": -1, "smin": 0x7FFFFFFF, "smax": -0x80000000, "and": -1}


@family("redux")
def redux(helpers: Helpers, name: str, operation: str) -> str:
    reduction = f"@llvm.vector.reduce.{operation}.v32i32"
    helpers.declare(f"i32 {reduction}(<32 x i32>)")
    body = f"""  %in = bitcast i32 %here to <32 x i1>
  %part = select <32 x i1> %in, <32 x i32> %value, <32 x i32> splat (i32 {_NEUTRAL.get(operation, 0)})
  %result = call i32 {reduction}(<32 x i32> %part)
"""  # noqa: E501
    return _for_each_lane(name, "i32", body)


@family("match")
def match(helpers: Helpers, name: str, bits: str) -> str:
    item = f"i{bits}"
    body = f"""  %mine = extractelement <32 x {item}> %value, i32 %lane
  %one = insertelement <32 x {item}> poison, {item} %mine, i64 0
  %all = shufflevector <32 x {item}> %one, <32 x {item}> poison, <32 x i32> zeroinitializer
  %equal = icmp eq <32 x {item}> %value, %all
  %equal.bits = bitcast <32 x i1> %equal to i32
  %result = and i32 %equal.bits, %here
"""
    return _for_each_lane(name, item, body)


def _for_each_lane(name: str, item: str, body: str) -> str:
    """A function that sets %result lane by lane; %here: the members that are there."""
    return f"""
define internal <32 x i32> @{name}(<32 x {item}> %value, <32 x i32> %members, i32 %mask) #0 {{
  br label %next
next:
  %lane = phi i32 [ 0, %0 ], [ %lane.next, %next ]
  %results = phi <32 x i32> [ zeroinitializer, %0 ], [ %results.next, %next ]
  %named = extractelement <32 x i32> %members, i32 %lane
  %here = and i32 %named, %mask
{body}  %results.next = insertelement <32 x i32> %results, i32 %result, i32 %lane
  %lane.next = add i32 %lane, 1
  %done = icmp eq i32 %lane.next, 32
  br i1 %done, label %end, label %next
end:
  ret <32 x i32> %results.next
}}
"""
