"""Events of an instruction: values, types, lanes, and the part of a launch."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from ferrum_numba.errors import DeviceError, LaunchError
from tests.emulator.trace.harness import of_opcode, run, trace

LANES = np.arange(32)
READ = """
shl.b32 %t1, %t0, 2;
cvt.u64.u32 %q8, %t1;
add.u64 %q9, %q0, %q8;
ld.global.b32 %t2, [%q9];
"""


def test_integers() -> None:
    launch = trace(
        "mad.lo.s32 %t1, %t0, -3, 7; mul.wide.s32 %q8, %t1, %t1; shr.u32 %t2, %t1, 28;"
        "setp.gt.s32 %p1, %t1, -20; selp.b32 %t3, %t1, 0, %p1;"
    )
    (mad,) = of_opcode(launch, "mad.lo.s32")
    assert (mad.reads["%t0"].array == LANES).all()
    assert mad.writes["%t1"].type == "s32"
    expected = 7 - 3 * LANES
    assert (mad.writes["%t1"].array == expected).all()
    (wide,) = of_opcode(launch, "mul.wide.s32")
    assert wide.writes["%q8"].type == "s64"
    assert (wide.writes["%q8"].array == expected.astype(np.int64) ** 2).all()
    (shift,) = of_opcode(launch, "shr.u32")
    assert (shift.writes["%t2"].array == expected.astype(np.uint32) >> 28).all()
    (test,) = of_opcode(launch, "setp.gt.s32")
    assert (test.writes["%p1"].array == (expected > -20)).all()
    assert test.writes["%p1"].text(0) == "true"
    # The instruction says bits; that they are signed is said by those that use the register.
    (select,) = of_opcode(launch, "selp.b32")
    assert (select.writes["%t3"].type, select.reads["%t1"].type) == ("b32", "s32")
    assert (
        select.writes["%t3"].array.view(np.int32) == np.where(expected > -20, expected, 0)
    ).all()


def test_floats_are_known_by_their_use() -> None:
    a = np.random.default_rng(0).standard_normal(32).astype(np.float32)
    launch = trace(f"{READ} fma.rn.f32 %t3, %t2, %t2, 0f3F800000;", a)
    (load,) = of_opcode(launch, "ld.global.b32")
    assert load.writes["%t2"].type == "f32"
    assert (load.writes["%t2"].array == a).all()
    assert load.reads["%q9"].type == "address"
    assert launch.place_of(int(load.reads["%q9"].array[5]), 4) == "a0[5]"
    (fma,) = of_opcode(launch, "fma.rn.f32")
    expected = (a.astype(np.float64) ** 2 + 1).astype(np.float32)
    assert (fma.writes["%t3"].array == expected).all()


@pytest.mark.parametrize(
    ("ptx_type", "dtype"), [("f16x2", np.float16), ("bf16x2", ml_dtypes.bfloat16)]
)
def test_packed_halves(ptx_type: str, dtype: type) -> None:
    a = np.arange(64).astype(dtype)
    launch = trace(f"{READ} fma.rn.{ptx_type} %t3, %t2, %t2, %t2;", a)
    (fma,) = of_opcode(launch, f"fma.rn.{ptx_type}")
    pairs = a.reshape(32, 2).astype(np.float64)
    assert fma.reads["%t2"].type == ptx_type
    assert (fma.reads["%t2"].array == a.reshape(32, 2)).all()
    assert (fma.writes["%t3"].array == (pairs * pairs + pairs).astype(dtype)).all()
    assert fma.reads["%t2"].text(1) == "(2, 3)"


def test_an_instruction_that_overwrites_what_it_reads() -> None:
    launch = trace("add.s32 %t0, %t0, %t0; @%p1 add.s32 %t0, %t0, 1;")
    first, second = of_opcode(launch, "add.s32")
    assert (first.reads["%t0"].array == LANES).all()
    assert (first.writes["%t0"].array == 2 * LANES).all()
    assert second.mask == 0
    assert (second.writes["%t0"].array == 2 * LANES).all()


def test_guards_take_lanes_out() -> None:
    launch = trace("setp.lt.u32 %p1, %t0, 5; @!%p1 mov.u32 %t1, 9; @%p1 mov.u32 %t1, 4;")
    _, negated, plain = of_opcode(launch, "mov.u32")
    assert negated.mask == 0xFFFFFFE0
    assert plain.lanes == (0, 1, 2, 3, 4)
    assert plain.active == 0xFFFFFFFF
    assert (plain.writes["%t1"].array == np.where(LANES < 5, 4, 9)).all()
    rows = list(plain.rows((4, 5)))
    assert [(r["register"], r["lane"], r["value"]) for r in rows if r["written"]] == [("%t1", 4, 4)]


def test_lanes_that_go_different_ways() -> None:
    """Each lane runs the loop as often as its own number says."""
    launch = trace(
        "mov.u32 %t1, 0; setp.eq.u32 %p1, %t0, 0; @%p1 bra END; LOOP: add.u32 %t1, %t1, 1;"
        "setp.lt.u32 %p2, %t1, %t0; @%p2 bra LOOP; END: mov.u32 %t2, %t1;"
    )
    rounds = np.zeros(32, int)
    for event in of_opcode(launch, "add.u32"):
        rounds[list(event.lanes)] += 1
        assert (event.writes["%t1"].array == rounds)[list(event.lanes)].all()
    assert (rounds == LANES).all()
    assert sum(event.mask for event in launch if "mov.u32 %t2" in event.instruction) == 0xFFFFFFFF


def test_a_loop_of_the_whole_warp() -> None:
    launch = trace(
        "mov.u32 %t1, 0; LOOP: add.u32 %t1, %t1, 2; setp.lt.u32 %p1, %t1, 20; @%p1 bra LOOP;"
    )
    values = [int(event.writes["%t1"].array[7]) for event in of_opcode(launch, "add.u32")]
    assert values == list(range(2, 22, 2))
    taken = [event.mask != 0 for event in of_opcode(launch, "bra")]
    assert taken == [True] * 9 + [False]


def test_a_partial_warp() -> None:
    launch = trace("add.u32 %t1, %t0, 1;", block=40, warp=1)
    (event,) = of_opcode(launch, "add.u32")
    assert event.active == event.mask == 0xFF
    assert (event.writes["%t1"].array[:8] == np.arange(33, 41)).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_ctas_and_warps(threads: int) -> None:
    body = "mov.u32 %t1, %ctaid.x; mad.lo.u32 %t2, %t1, 1000, %t0;"
    options = {"grid": 6, "block": 96, "threads": threads}
    launch = trace(body, cta=None, warp=2, **options)
    found = [
        (e.cta[0], e.warp, int(e.writes["%t2"].array[3])) for e in of_opcode(launch, "mad.lo.u32")
    ]
    assert found == [(cta, 2, 1000 * cta + 67) for cta in range(6)]
    launch = trace(body, cta=(4, 0, 0), **options)
    assert {event.cta for event in launch} == {(4, 0, 0)}
    assert [e.warp for e in of_opcode(launch, "mad.lo.u32")] == [0, 1, 2]
    with pytest.raises(
        DeviceError, match=r"cta: expected one within the grid \(6, 1, 1\), found \(6, 0, 0\)"
    ):
        run(body, cta=(6, 0, 0), **options)
    with pytest.raises(DeviceError, match="expected 0 to 2, as the block has 3, found 3, 5"):
        run(body, warp=(0, 5, 3), **options)


def test_lines_and_registers() -> None:
    body = "add.u32 %t1, %t0, 1;\nadd.u32 %t2, %t1, 1;\nadd.u32 %t3, %t0, 1;"
    whole = trace(body)
    line = of_opcode(whole, "add.u32")[1].line
    assert [event.line for event in trace(body, lines=[line])] == [line]
    found = trace(body, registers=["t1"])
    assert [list(event.writes) for event in found] == [["%t1"], ["%t2"]]


def test_registers_of_inline_assembly_have_no_percent_sign() -> None:
    body = "{ .reg .b32 c; add.u32 c, %t0, 1; add.u32 %t1, c, 1; }"
    first, second = trace(body, registers=["c"])
    assert (first.writes["%c"].array == LANES + 1).all()
    assert (second.reads["%c"].array == LANES + 1).all()


def test_what_does_not_fit_is_counted() -> None:
    body = "mov.u32 %t1, 0; LOOP: add.u32 %t1, %t1, 1; setp.lt.u32 %p1, %t1, 100; @%p1 bra LOOP;"
    whole = trace(body)
    short = trace(body, limit=50)
    assert (len(short), short.dropped) == (50, len(whole) - 50)
    assert [e.instruction for e in short] == [e.instruction for e in whole[:50]]
    assert whole.dropped == 0


def test_wide_events_do_not_fit_either() -> None:
    """An event may be larger than the room that there is for one on average."""
    many = ", ".join(f"%t{i}" for i in range(1, 5))
    body = "add.u64 %q8, %q0, 0;" + f"ld.global.v4.b32 {{{many}}}, [%q8];" * 40
    launch = trace(body, np.zeros(64, np.uint32), limit=20)
    assert 0 < len(launch) <= 20
    assert len(launch) + launch.dropped == len(trace(body, np.zeros(64, np.uint32)))


def test_a_launch_that_fails_can_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    launch, error = run("add.u32 %t1, %t0, 1; setp.gt.u32 %p1, %t1, 8; @%p1 trap;")
    assert isinstance(error, LaunchError)
    (stop,) = of_opcode(launch, "trap")
    assert stop.lanes == tuple(range(8, 32))
    monkeypatch.setenv("FERRUM_CPU_STEPS", "1000")
    launch, error = run("mov.u32 %t1, 0; LOOP: add.u32 %t1, %t1, 1; bra LOOP;", limit=100)
    assert isinstance(error, LaunchError)
    assert len(launch) == 100
    assert launch.dropped > 100


def test_an_access_outside_the_arrays_is_left_out() -> None:
    a = np.arange(20, dtype=np.uint32)
    launch, error = run(f"{READ} add.u32 %t3, %t2, 1;", a)
    assert error is None
    (finding,) = launch.findings
    assert (finding.kind, finding.lanes) == ("out-of-bounds", tuple(range(20, 32)))
    (load,) = of_opcode(launch, "ld.global.b32")
    assert launch.place_of(int(load.reads["%q9"].array[21]), 4) == "a0+84"
    assert load.lanes == tuple(range(32))


def test_checks_may_go_with_it() -> None:
    launch, _ = run(
        "ld.shared.b32 %t1, [tile];", shared_bytes=64, checks=("memory", "init", "race", "order")
    )
    assert [finding.kind for finding in launch.findings] == ["uninitialised-shared"]
    assert len(of_opcode(launch, "ld.shared.b32")) == 1


def test_barriers_are_there_once() -> None:
    launch = trace("bar.sync 0; bar.sync 1, 64; barrier.sync 0;", block=64)
    names = [event.instruction for event in launch if "bar" in event.opcode and event.warp == 1]
    assert names == ["bar.sync 0", "bar.sync 1, 64", "barrier.sync 0"]


def test_a_sum_of_products_in_place() -> None:
    """Two in a row are otherwise lowered as one: the second would not see what it adds to."""
    registers = [f"%t{i}" for i in range(10, 24)]
    a, b, c, d = (", ".join(registers[i:j]) for i, j in ((0, 4), (4, 6), (6, 10), (10, 14)))
    mma = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
    fill = "".join(f"mov.b32 {r}, 0x3C003C00;" for r in registers[:6])
    fill += "".join(f"mov.f32 {r}, 0f40000000;" for r in registers[6:])
    launch = trace(
        f"{fill} {mma} {{{c}}}, {{{a}}}, {{{b}}}, {{{c}}};{mma} {{{d}}}, {{{a}}}, {{{b}}}, {{{d}}};"
    )
    for event in of_opcode(launch, mma):
        assert {v.type for v in event.writes.values()} == {"f32"}
        assert event.reads["%t10"].type == "f16x2"
        for name, values in event.writes.items():
            assert (event.reads[name].array == 2).all()
            assert (values.array == 18).all()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("cta", (0, -1), "cta: expected 1 to 3 numbers"),
        ("warp", 32, "warp: expected 0 to 31, found 32"),
        ("limit", 0, "limit: expected at least 1 event"),
        ("limit", 1 << 62, "limit: no memory for 4,611,686,018,427,387,904 events"),
        ("registers", "%r1", "registers: expected a list of names"),
    ],
)
def test_selections_that_no_launch_has(name: str, value: object, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        run("add.u32 %t1, %t0, 1;", **{name: value})
