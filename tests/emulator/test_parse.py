from __future__ import annotations

import numpy as np
import pytest

from ferrum_numba.emulator import Program
from ferrum_numba.emulator.parse import parse_entry
from ferrum_numba.emulator.ptx import Address, Group, Immediate, Instruction, Register
from ferrum_numba.errors import PtxError

from .harness import entry, run

ODD = """
    .reg .b32 %r1, %tmp;
    .loc 3 17 5 // k.py:17
    // begin inline asm
    { .reg   .b32   tmp ;  .reg .b32 %r1;
      mov.b32   tmp ,0x10 ; /* a comment; with ( braces } */ mov.b32 %r1,
        5; add.s32 %tmp, tmp, %r1; }
    // end inline asm
    .loc 3 18 5, function_name $L__info_string0, inlined_at 3 20 1
$L__tmp1: mov.b32 %r1, 0b101; add.s32 %r1, %r1, 010U;
    .pragma "nounroll";
    @ ! %p0 add.s32 %tmp, %tmp, %r1; @%p0 mov.b32 %tmp, 0;
    st.global.b32 [ %q0 + 4+-4 ], { %tmp };
"""


def test_odd_spacing_scopes_and_comments() -> None:
    out = np.zeros(1, np.uint32)
    run(entry(1, ODD), out)
    assert out[0] == 16 + 5 + 5 + 8


def test_operands_lines_and_locations() -> None:
    text = entry(1, ODD)
    body = parse_entry(text, "k")
    instructions = [s for s in body.statements if isinstance(s, Instruction)]
    assert "$L__tmp1" in body.statements
    last = instructions[-2]
    assert last.opcode.base == "st"
    address, group = last.operands
    assert isinstance(address, Address)
    assert isinstance(address.base, Register)
    assert address.offset == 0
    assert isinstance(group, Group)
    assert last.loc == (3, 18)
    assert text.splitlines()[last.line - 1].strip().startswith("st.global")
    inner = instructions[2]
    assert inner.operands[1] == Immediate(16)
    assert inner.loc == (3, 17)
    assert instructions[-3].guard is not None
    # `%r1` inside the braces and outside are two registers.
    names = {r for i in instructions for r in i.operands if isinstance(r, Register)}
    assert sum(r.name == "%r1" for r in names) == 2


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("frobnicate.b32 %t1, %t2;", "frobnicate"),
        ("add.cc.f32 %t1, %t2, %t3;", r"\.cc"),
        ("addc.u32 %t1, %t2;", "addc"),
        ("mul.rz.f64 %q1, %q2, %q3;", r"\.rz"),
        ("add.rz.rm.f32 %t1, %t2, %t3;", r"\.rz"),
        ("atom.global.add.b32 %t1, [%q1], %t2;", "operation"),
        ("atom.global.max.f32 %t1, [%q1], %t2;", "operation"),
        ("redux.sync.add.b32 %t1, %t2, -1;", "reduction"),
        ("mbarrier.init.shared.b64 [%t1];", "expected 2 operands"),
        ("add.f128 %t1, %t2, %t3;", "add.f128"),
        ("add.u32 %t1, %t2;", "expected 3 operands"),
        ("add.u32 %t1, %t2, %nope;", "%nope"),
        ("add.u32 %t1, %t2, 0f3F800000;", "literal"),
        ("add.u32 %t1, %h2, %t3;", "%h2 is .b16"),
        ("add.u64 %t1, %q2, %q3;", "%t1 is .b32"),
        ("add.u32 5, %t2, %t3;", "no destination"),
        ("@%t1 add.u32 %t1, %t2, %t3;", "predicate"),
        ("mov.u32 %t1, %nosuchspecial;", "%nosuchspecial"),
        ("mov.u32 %t1, nosymbol;", "nosymbol"),
        ("mov.u32 %t1, %t99999;", "%t99999"),
        ("ld.global.v2.b32 {%t1, %t2, %t3}, [%q1];", "3 registers"),
        ("ld.param.b32 %t1, [p7];", "p7"),
        ("ld.param.b64 %q1, [p0+8];", "beyond"),
        ("ld.global.b32 %t1, [%t2];", "global address"),
        ("bra NOWHERE;", "NOWHERE"),
        ("bra %t1;", "label"),
        ("call (%t1), f, (%t2);", "call"),
        ("setp.foo.s32 %p1, %t1, %t2;", "foo"),
        ("setp.lt.gt.s32 %p1, %t1, %t2;", "relation"),
        ("cvt.rm.f32.s64 %t1, %q1;", "rounding"),
        ("cvt.rn.e4m3x2.f32 %h1, %t1, %t2;", "satfinite"),
        ("cvt.rn.satfinite.f16.f32 %h1, %t1;", "satfinite"),
        ("lop3.b32 %t1, %t2, %t3, %t4, 256;", "table"),
        ("mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32 %t1, %t2, %t3, %t4;", "m8n8k4"),
        (
            "wgmma.mma_async.sync.aligned.m64n8k8.f32.f16.f16 {%t1}, %q1, %q2, 1, 1, 1, 0, 0;",
            "k of",
        ),
        ("cp.async.bulk.global.shared::cta [%q1], [%t2], 16;", "in a group"),
        (".reg .q99 %z;", "reg"),
        ("add u32 %t1 %t2 [;", "cannot read"),
        ("?;", "not an instruction"),
    ],
)
def test_what_is_refused(statement: str, message: str) -> None:
    text = entry(1, f"mov.u32 %t1, 1;\n{statement}\nmov.u32 %t2, 1;")
    line = text.splitlines().index(statement) + 1
    with pytest.raises(PtxError, match=message) as error:
        Program.compile(text, "k")
    assert f"PTX line {line}:" in str(error.value)
    assert " ".join(statement.rstrip(";").split()) in str(error.value)


def test_arrays_of_the_module() -> None:
    head = """.global .align 4 .b32 table[4] = {1, 0x20, -3};
.const .align 8 .b8 bytes[] = {7, 8, 9}; .extern .global .b32 elsewhere[2];"""
    head = head.replace("; .extern", ";\n.extern")
    body = """mov.u64 %q1, table; ld.global.v2.b32 {%t1, %t2}, [%q1]; ld.global.b32 %t3, [table+8];
    ld.global.b32 %t4, [%q1+12]; ld.const.u8 %t5, [bytes+2]; add.u32 %t5, %t5, %t4;
    st.global.v4.b32 [%q0], {%t1, %t2, %t3, %t5};"""
    out = np.zeros(4, np.uint32)
    run(entry(1, body, head), out)
    assert out.view(np.int32).tolist() == [1, 32, -3, 9]
    for name, content in (("elsewhere", ""), ("odd", ".global .u64 odd[1] = {generic(table)};")):
        with pytest.raises(PtxError, match=name):
            Program.compile(entry(1, f"mov.u64 %q1, {name};", f"{head}\n{content}"), "k")


def test_truncated_text() -> None:
    text = entry(1, "mov.u32 %t1, 1;\nst.global.b32 [%q0], %t1;")
    complete = text.rindex("ret;")
    for end in range(text.index("{"), complete):
        with pytest.raises(PtxError):
            Program.compile(text[:end], "k")


def test_falling_off_the_end() -> None:
    text = entry(1, "mov.u32 %t1, 1;").replace("ret;", "")
    with pytest.raises(PtxError, match="end of the entry"):
        Program.compile(text, "k")


def test_unknown_entry_and_empty_body() -> None:
    with pytest.raises(PtxError, match="nosuch"):
        Program.compile(entry(1, ""), "nosuch")
    with pytest.raises(PtxError, match="expected instructions, found none"):
        Program.compile(".version 8.0\n.target sm_80\n.entry k() { }", "k")
