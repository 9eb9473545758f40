"""Conditions and stepping, over what was recorded."""

from __future__ import annotations

import numpy as np
import pytest

from ferrum_numba.emulator.trace import Breakpoint, Condition, Replay, TracedLaunch, Values
from ferrum_numba.errors import DeviceError
from tests.emulator.trace.harness import trace

LOOP = """
mov.u32 %t1, 0;
mov.u32 %t2, %t0;
LOOP:
add.u32 %t1, %t1, 1;
add.s32 %t2, %t2, 10;
setp.lt.u32 %p1, %t1, 6;
@%p1 bra LOOP;
setp.lt.u32 %p2, %t0, 4;
@%p2 mov.u32 %t2, 7;
"""


@pytest.fixture(scope="module")
def launch() -> TracedLaunch:
    return trace(LOOP)


def line_of(launch: TracedLaunch, text: str) -> int:
    return next(s.line for s in launch.body.statements if not isinstance(s, str) and text in s.text)


def test_stepping(launch: TracedLaunch) -> None:
    replay = Replay(launch, (0, 0, 0), 0)
    assert replay.event.number == 0
    replay.move(-1)
    assert replay.position == 0
    replay.move(4)
    assert replay.event.instruction == "add.s32 %t2, %t2, 10"
    replay.move(10_000)
    assert replay.event.opcode == "ret"
    assert replay.position == len(replay) - 1 == len(launch) - 1


def test_breakpoints_on_lines_count_the_rounds(launch: TracedLaunch) -> None:
    replay = Replay(launch, (0, 0, 0), 0)
    breakpoint = Breakpoint.parse(str(line_of(launch, "add.u32")))
    seen = []
    while replay.run([breakpoint]):
        seen.append(int(replay.event.writes["%t1"].array[0]))
    assert seen == [1, 2, 3, 4, 5, 6]
    assert replay.position == len(replay) - 1
    back = []
    while replay.run([breakpoint], -1):
        back.append(int(replay.event.writes["%t1"].array[0]))
    assert back == seen[::-1]
    assert replay.position == 0


def test_breakpoints_on_conditions(launch: TracedLaunch) -> None:
    replay = Replay(launch, (0, 0, 0), 0)
    stop = replay.run([Breakpoint.parse("%t2 > 70 and lane < 30")])
    assert stop is not None
    assert stop[1] == sum(1 << lane for lane in range(21, 30))
    assert int(replay.event.reads["%t2"].array[0]) == 40
    line = line_of(launch, "setp.lt.u32 %p1")
    stop = replay.run([Breakpoint.parse(f"{line} if t1 == 6")])
    assert stop is not None
    assert stop[1] == 0xFFFFFFFF
    assert int(replay.register("%t1")[0].array[9]) == 6
    assert replay.run([Breakpoint.parse("%t2 == -1")]) is None


def test_registers_as_they_were(launch: TracedLaunch) -> None:
    replay = Replay(launch, (0, 0, 0), 0)
    assert replay.register("%t2") is None
    replay.move(10_000)
    values, known = replay.register("%t2")
    assert known == 0xFFFFFFFF
    assert (values.array == np.where(np.arange(32) < 4, 7, np.arange(32) + 60)).all()
    replay.move(-2)  # before the guarded move
    values, _ = replay.register("%t2")
    assert (values.array == np.arange(32) + 60).all()
    assert {"%t0", "%t1", "%t2", "%p1", "%p2"} <= set(replay.names())


def test_registers_of_lanes_that_went_different_ways() -> None:
    body = (
        "setp.lt.u32 %p1, %t0, 9; @%p1 bra LOW; add.u32 %t1, %t0, 100; bra END;"
        "LOW: add.u32 %t1, %t0, 500; END: mov.u32 %t3, 1;"
    )
    replay = Replay(trace(body), (0, 0, 0), 0)
    replay.move(10_000)
    values, known = replay.register("%t1")
    assert known == 0xFFFFFFFF
    assert (values.array == np.arange(32) + np.where(np.arange(32) < 9, 500, 100)).all()


def test_source_lines() -> None:
    head = '.file 1 "kernel.py"\n'
    body = "".join(
        f".loc 1 {line} 0\nadd.u32 %t1, %t0, {line};\nadd.u32 %t2, %t0, {line};\n"
        for line in (10, 11, 10, 12)
    )
    launch = trace(body, head=head)
    replay = Replay(launch, (0, 0, 0), 0)
    assert replay.event.source_line is None
    lines = []
    for _ in range(4):
        replay.move_line(1)
        lines.append(replay.event.source_line)
    assert lines == [10, 11, 10, 12]
    replay.move_line(-1)
    assert replay.event.instruction == "add.u32 %t1, %t0, 10"
    replay.position = 0
    stops = []
    while replay.run([Breakpoint.parse("kernel.py:10")]):
        stops.append(replay.event.instruction)
    assert stops == ["add.u32 %t1, %t0, 10"] * 2
    assert replay.event.source_line == 12 or replay.event.opcode == "ret"
    assert launch.source_of(replay.launch.body.statements[-2])[0] == "kernel.py"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("%t99 > 1", "there is no register %t99"),
        ("9999", "no instruction is there"),
        (":45", "no instruction is there"),
    ],
)
def test_breakpoints_that_nothing_meets(launch: TracedLaunch, text: str, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        Replay(launch, (0, 0, 0), 0).check(Breakpoint.parse(text))


def test_a_warp_that_was_not_traced(launch: TracedLaunch) -> None:
    with pytest.raises(DeviceError, match=r"CTA \(0, 0, 0\), warp 3: nothing was traced"):
        Replay(launch, (0, 0, 0), 3)


VALUES = {
    "%a": Values("s32", np.arange(-16, 16, dtype=np.int32).view(np.uint32)),
    "%f": Values("f32", np.linspace(-1, 1, 32, dtype=np.float32).view(np.uint32)),
    "%h": Values("f16x2", np.arange(64, dtype=np.float16).view(np.uint32)),
    "%b": Values("b32", np.full(32, 0x7FC00000, np.uint32)),
    "%q": Values("u64", np.full(32, (1 << 64) - 1, np.uint64)),
    "%p": Values("pred", (np.arange(32) % 2).astype(np.uint8)),
}
A = np.arange(-16, 16)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("%a > 3", A > 3),
        ("a > 3", A > 3),
        ("-4 < %a <= 4", (A > -4) & (A <= 4)),
        ("%a % 4 == 1 and not %p", (A % 4 == 1) & (np.arange(32) % 2 == 0)),
        ("%f < 0 or lane == 31", np.linspace(-1, 1, 32) < 0),
        ("%a & 1 == 1", np.zeros(32, bool)),  # as in Python, & binds looser than ==
        ("(%a & 1) == 1", A & 1 == 1),
        ("%h.lo + %h.hi > 100", np.arange(32) * 4 + 1 > 100),
        ("isnan(%b.f32)", np.ones(32, bool)),
        ("abs(%a) == 5", abs(A) == 5),
        ("%a.u32 > 1 << 31", A < 0),
        ("%q == (1 << 64) - 1", np.ones(32, bool)),
    ],
)
def test_conditions(text: str, expected: np.ndarray) -> None:
    bits = sum(1 << lane for lane in range(32) if np.atleast_1d(expected)[lane])
    if "lane == 31" in text:
        bits |= 1 << 31
    if text == "%a & 1 == 1":
        bits = sum(1 << lane for lane in range(32) if A[lane] & (1 == 1))
    assert Condition(text).holds(VALUES.get) == bits


def test_a_register_that_is_not_known_holds_nowhere() -> None:
    assert Condition("%unknown == 0").holds(VALUES.get) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("%a >", "invalid syntax"),
        ("__import__('os')", "expected registers, "),
        ("%a.__class__", "expected a type of PTX"),
        ("'text'", "expected registers, "),
        ("[1][0]", "expected registers, "),
        ("open(1)", "expected registers, "),
        ("%h > 1", "expected %h.lo or %h.hi, found %h, which is f16x2"),
        ("%a.f64 > 1", "a register of 32 bits"),
        ("%a.lo > 1", "expected a packed type .*, found %a, which is s32"),
        ("%f & 1", "unsupported operand"),
        ("%a // 0", "division"),
    ],
)
def test_what_is_no_condition(text: str, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        Condition(text).holds(VALUES.get)
