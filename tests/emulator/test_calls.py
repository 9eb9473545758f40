"""Functions that an entry calls, and modules that hold more than one entry."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from ferrum_numba.emulator import Program
from ferrum_numba.errors import LaunchError, PtxError

from .harness import entry, run

ADDRESS = "mul.wide.u32 %q8, %t0, 4; add.s64 %q9, %q0, %q8; add.s64 %q10, %q1, %q8;"
# 3 a + b where a is odd, else a: the lanes come back from different places.
MIX = """.func (.param .b32 mix_result) mix(.param .b32 mix_0, .param .align 8 .b8 mix_1[8])
{ .reg .pred %p<3>; .reg .b32 %t<6>;
ld.param.b32 %t1, [mix_0]; ld.param.b32 %t2, [mix_1+4]; and.b32 %t3, %t1, 1;
setp.eq.u32 %p1, %t3, 0; @%p1 bra EVEN; mad.lo.u32 %t4, %t1, 3, %t2;
st.param.b32 [mix_result], %t4; ret;
EVEN: st.param.b32 [mix_result], %t1; ret; }
"""
CALL = """{{ .param .b32 param0; .param .align 8 .b8 param1[8]; .param .b32 retval0;
st.param.b32 [param0+0], {0}; st.param.v2.b32 [param1], {{%t0, {1}}};
call.uni (retval0), mix,
  (param0, param1); ld.param.b32 {2}, [retval0+0]; }}"""


def mixed(a: np.ndarray, b: np.ndarray | int) -> np.ndarray:
    return np.where(a % 2, 3 * a + b, a).astype(np.uint32)


def test_calls_in_lanes_that_go_different_ways() -> None:
    x, out = np.arange(64, dtype=np.uint32) * 7, np.zeros(64, np.uint32)
    first = CALL.format("%t1", "%t0", "%t2")
    text = f"""{ADDRESS} ld.global.b32 %t1, [%q9]; {first}
    setp.gt.u32 %p1, %t2, 100; @%p1 bra LARGE; {CALL.format("%t2", "7", "%t3")} bra END;
LARGE: {CALL.format("%t0", "%t2", "%t3")}
END: st.global.b32 [%q10], %t3;"""
    run(entry(2, text, MIX), x, out, block=64)
    lanes = np.arange(64, dtype=np.uint32)
    once = mixed(x, lanes)
    expected = np.where(once > 100, mixed(lanes, once), mixed(once, 7))
    assert out.tolist() == expected.tolist()


def test_functions_that_call_functions_and_share_memory() -> None:
    """Shared memory of a function is there once, however often it is called."""
    head = """.func bump(.param .b32 bump_0);
.func twice(.param .b32 twice_0) { .reg .b32 %t<2>; ld.param.b32 %t1, [twice_0];
{ .param .b32 p; st.param.b32 [p], %t1; call.uni bump, (p); }
{ .param .b32 p; st.param.b32 [p], %t1; call bump, (p); } ret; }
.func bump(.param .b32 bump_0)
{ .shared .align 4 .b8 count[4]; .reg .b32 %t<5>; .reg .pred %q; ld.param.b32 %t1, [bump_0];
setp.eq.u32 %q, %t1, 0; @%q st.shared.b32 [count], 0; @%q ret;
ld.shared.b32 %t2, [count]; add.u32 %t2, %t2, %t1; st.shared.b32 [count], %t2;
st.global.b32 [sums], %t2; }
"""
    head = ".global .align 4 .b32 sums[1];\n" + head
    call = "{{ .param .b32 p; st.param.b32 [p], {}; {}call.uni {}, (p); }}"
    body = f"""setp.ne.u32 %p1, %t0, 0; @%p1 bra END; {call.format(0, "", "bump")}
    setp.eq.u32 %p2, %t0, 0; {call.format(5, "", "twice")} {call.format(3, "@%p2 ", "bump")}
    {call.format(100, "@!%p2 ", "bump")} ld.global.b32 %t1, [sums]; st.global.b32 [%q0], %t1;
END:"""
    out = np.zeros(1, np.uint32)
    run(entry(1, body, head), out)
    assert out[0] == 13


REFUSED = [
    ("call.uni f, (p);", ".func f(.param .b32 f_0) {{ {} ret; }}", "f calls itself"),
    ("call.uni vprintf, (p);", ".extern .func vprintf;", "expected 2 parameters, found 1"),
    ("call.uni vprintf, (p, v);", ".extern .func vprintf;", "v: expected a .param variable"),
    ("call.uni g, (p);", ".extern .func g(.param .b32 g_0);", "g has no body"),
    ("call.uni f;", ".func f(.param .b32 f_0) {{ ret; }}", "expected 1 parameters"),
    ("call.uni f, (p0);", ".func f(.param .b32 f_0) {{ ret; }}", "a .param variable"),
    ("call %q1, (p), prototype;", "", "by name"),
]


@pytest.mark.parametrize(("call", "head", "message"), REFUSED)
def test_calls_that_are_refused(call: str, head: str, message: str) -> None:
    around = "{ .param .b32 p;\n" + call + "\n}"
    with pytest.raises(PtxError, match=message) as error:
        Program.compile(entry(1, around, head.format(around)), "k")
    assert "PTX line" in str(error.value)
    assert call.rstrip(";") in str(error.value)


def test_calls_that_grow_beyond_all_bounds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ferrum_numba.emulator.parse.MOST_STATEMENTS", 3000)
    names = [f"f{i}" for i in range(40)]
    head = "".join(
        f".func {name} {{ call.uni {after}; call.uni {after}; ret; }}\n"
        for name, after in pairwise(names)
    )
    with pytest.raises(PtxError, match="too long"):
        Program.compile(entry(1, "call.uni f0;", f"{head}.func f39 {{ ret; }}"), "k")


def _array(name: str, text: str) -> str:
    content = ", ".join(map(str, text.encode()))
    return f".global .align 1 .b8 {name}[{len(text) + 1}] = {{{content}}};\n"


FAILS = """{ .param .b64 param0; .param .b64 param1; .param .b32 param2; .param .b64 param3;
.param .b64 param4; mov.b64 %q1, message; st.param.b64 [param0], %q1; mov.b64 %q1, file;
st.param.b64 [param1], %q1; st.param.b32 [param2], 12; mov.b64 %q1, function;
st.param.b64 [param3], %q1; st.param.b64 [param4], 1;
call.uni __assertfail, (param0, param1, param2, param3, param4); }"""
FAIL_HEAD = """.extern .func __assertfail(.param .b64 a_0, .param .b64 a_1, .param .b32 a_2,
.param .b64 a_3, .param .b64 a_4);
""" + "".join(map(_array, ("message", "file", "function"), ("x < 3", "dir/kernel.py", "clamp")))


def test_a_failed_assertion_has_its_own_text_and_names_its_thread() -> None:
    body = f"""mov.u32 %t1, %ctaid.x; mad.lo.u32 %t1, %t1, 64, %t0; setp.lt.u32 %p1, %t1, 170;
    @%p1 bra FINE; {FAILS}
FINE:"""
    text = entry(1, body, FAIL_HEAD)
    run(text, np.zeros(1), block=64, grid=2)
    message = (
        r"CTA \(2, 0, 0\), warp 1, thread \(42, 0, 0\) and 21 more of its warp: "
        r"the assertion failed: x < 3, at dir/kernel\.py:12, in clamp"
    )
    with pytest.raises(LaunchError, match=message):
        run(text, np.zeros(1), block=64, grid=3)
    fifth = text.replace("%tid.x", "%warpid").replace("170", "5")
    with pytest.raises(LaunchError, match=r"warp 5, thread \(0, 2, 1\) and 31 more"):
        run(fifth, np.zeros(1), block=(32, 3, 2))
    run(text, np.zeros(1), block=64, grid=2)


PRINTS = """{{ .param .b64 param0; .param .b64 param1; .param .b32 retval0; mov.b64 %q1, format;
st.param.b64 [param0], %q1; st.param.b64 [param1], %q2;
{}call.uni (retval0), vprintf, (param0, param1); }}"""
PRINT_HEAD = ".extern .func (.param .b32 r) vprintf(.param .b64 v_0, .param .b64 v_1);\n"


def test_prints_are_those_of_c(capsys: pytest.CaptureFixture[str]) -> None:
    form = "%u|%5d|%-4x|%lld|%8.3f|%g|%s|%c|%%|%p|%*d|%o\n"
    body = f""".local .align 8 .b8 depot[128]; cvta.local.u64 %q3, 0; mov.b64 %q2, depot;
    cvta.local.u64 %q2, %q2; st.u32 [%q2], %t0; st.u32 [%q2+4], -3; st.u32 [%q2+8], 255;
    st.u64 [%q2+16], -5000000000; mov.b64 %q4, 0d3FF8000000000000; st.u64 [%q2+24], %q4;
    mov.b64 %q4, 0d3FE0000000000000; st.u64 [%q2+32], %q4; mov.b64 %q4, word;
    st.u64 [%q2+40], %q4; st.u32 [%q2+48], 65; st.u64 [%q2+56], 4096; st.u32 [%q2+64], 4;
    st.u32 [%q2+68], 7; st.u32 [%q2+72], 8; setp.lt.u32 %p1, %t0, 2; {PRINTS.format("@%p1 ")}"""
    body = body.replace("cvta.local.u64 %q3, 0; ", "")
    head = PRINT_HEAD + _array("format", form) + _array("word", "word")
    run(entry(1, body, head), np.zeros(1), block=64)
    line = "{}|   -3|ff  |-5000000000|   1.500|0.5|word|A|%|0x1000|   7|10\n"
    assert capsys.readouterr().out == line.format(0) + line.format(1)


def test_ctrl_c_within_a_print_ends_the_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def write(self, text: str) -> None:
            raise KeyboardInterrupt

    body = f"mov.b64 %q2, %q0; {PRINTS.format('')}"
    monkeypatch.setattr("sys.stdout", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        run(entry(1, body, PRINT_HEAD + _array("format", "here")), np.zeros(1))


def test_an_entry_behind_others_that_use_shared_memory() -> None:
    other = """.visible .entry other(.param .u64 other_0) {
.shared .align 4 .b8 mine[64]; .reg .b32 %t<4>;
\tld.shared.b32 %t1, [mine];
\tst.shared.b32 [mine+4], %t1;
ret; }
"""
    body = f""".shared .align 4 .b8 mine[128]; shl.b32 %t1, %t0, 2; mov.b32 %t3, mine;
    add.u32 %t3, %t3, %t1; st.shared.b32 [%t3], %t0; ld.shared.b32 %t2, [%t3]; {ADDRESS}
    st.global.b32 [%q10], %t2;"""
    out = np.zeros(32, np.uint32)
    run(entry(2, body, other), out, out)
    assert out.tolist() == list(range(32))
