"""Bulk copies: each lane that takes part moves any number of bytes.

bulk_<in|out>(base, shared addresses, global addresses, sizes, mask): in: to shared memory
bulkreduce_<operation>_<type>(base, shared addresses, global addresses, sizes, mask): to global
"""

from __future__ import annotations

from ..layout import LANES
from ..routine import VECTOR, Routine, routine
from ..values import Value
from .access import ADDRESSES, place_of


@routine("bulk")
def bulk(r: Routine, way: str) -> None:
    base, *given, mask = r.takes("ptr", VECTOR, ADDRESSES["global"], VECTOR, "i32")
    places, addresses, sizes = (r.spread(value) for value in given)
    with r.each_lane(mask) as (lane,):
        near = place_of(r, "shared", base, places(lane))
        far = place_of(r, "global", base, addresses(lane))
        length = r.cast("zext", sizes(lane), "i64")
        r.copy_bytes(*((near, far) if way == "in" else (far, near)), length)


@routine("bulkreduce")
def bulk_reduce(r: Routine, operation: str, ptx_type: str) -> None:
    """Thirty-two elements at a time, as the lanes of an atomic operation."""
    base, *given, mask = r.takes("ptr", VECTOR, ADDRESSES["global"], VECTOR, "i32")
    places, addresses, sizes = (r.spread(value) for value in given)
    bits = 16 if ptx_type == "bf16" else int(ptx_type[1:])
    nbytes, item = bits // 8, f"i{bits}"
    vector = f"<{LANES} x {item}>"
    with r.each_lane(mask) as (lane,):
        near, far, size = places(lane), addresses(lane), sizes(lane)
        loop = r.loop(r.constant("i32", 0))
        with loop as (at,):
            loop.leave(r.compare("icmp uge", at, size))
            offsets = r.op("add", r.vector(at), r.iota("i32", nbytes))
            inside = r.mask(r.compare("icmp ult", offsets, size))
            froms = r.op("add", r.vector(near), offsets)
            old = f"{vector} zeroinitializer"
            text = r.call(f"load_shared_{bits}", vector, base, froms, inside, old)
            value = Value(text, item, LANES)
            to = r.op("add", r.vector(far), r.cast("zext", offsets, "i64"))
            name = f"atomic_{operation}_{ptx_type}_global"
            r.call(name, vector, base, to, value, value, inside)
            loop.again(r.op("add", at, LANES * nbytes))
