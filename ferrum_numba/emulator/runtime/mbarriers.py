"""mbarrier objects: 64 bits of shared memory, changed by 32 lanes, one lane after another.

    mbarrier(base, addresses, arrivals, dropped, bytes, mask) -> <32 x i64>: the words before:
        arrivals: that come; dropped: that no later phase expects; bytes: more to wait for, or fewer

A word holds, from bit 0: 20 bits arrivals that are pending, 20 that a phase expects, 21 bytes that
are still to come (signed), and at bit 61 the phase's parity.  PTX leaves the form open.
Source: PTX ISA, "Parallel Synchronization: mbarrier".
"""

from __future__ import annotations

from ..routine import VECTOR, Routine, routine
from ..values import Value
from .access import place_of

EXPECTED, BYTES, PHASE = 20, 40, 61  # the first bits of the fields; PENDING is 0
COUNT = (1 << 20) - 1  # the most arrivals, and the mask of their fields


@routine("mbarrier")
def mbarrier(r: Routine) -> None:
    base, *given, mask = r.takes("ptr", *[VECTOR] * 4, "i32")
    places, arrivals, dropped, nbytes = (r.spread(value) for value in given)
    words = r.room("<32 x i64>")
    r.store(Value("zeroinitializer", "i64", 32), words, 0, 64)
    with r.each_lane(mask) as (lane,):
        there = place_of(r, "shared", base, places(lane))
        word = r.load("i64", 1, there, 0, 1)
        r.store(word, r.item("i64", words, lane), 0, 8)
        pending = r.op("and", word, COUNT)
        expected = r.op("and", r.op("lshr", word, EXPECTED), COUNT)
        to_come = r.op("ashr", r.op("shl", word, 64 - PHASE), 64 - PHASE + BYTES)
        pending = r.op("sub", pending, r.cast("zext", arrivals(lane), "i64"))
        expected = r.op("sub", expected, r.cast("zext", dropped(lane), "i64"))
        to_come = r.op("add", to_come, r.cast("sext", nbytes(lane), "i64"))
        complete = r.compare("icmp eq", r.op("or", pending, to_come), 0)
        pending = r.select(complete, expected, pending)
        phase = r.op("xor", r.op("lshr", word, PHASE), r.cast("zext", complete, "i64"))
        new = r.op("and", pending, COUNT)
        for field, bits, start in (
            (expected, BYTES - EXPECTED, EXPECTED),
            (to_come, PHASE - BYTES, BYTES),
            (phase, 64 - PHASE, PHASE),
        ):
            part = r.op("and", field, (1 << bits) - 1)
            new = r.op("or", new, r.op("shl", part, start))
        r.store(new, there, 0, 1)
    r.ret(r.load("i64", 32, words, 0, 64))
