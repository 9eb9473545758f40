"""Bulk copies: each lane that takes part moves any number of bytes.

bulk_<in|out>(base, shared addresses, global addresses, sizes, mask): in: to shared memory
"""

from __future__ import annotations

from ..routine import VECTOR, Routine, routine
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
