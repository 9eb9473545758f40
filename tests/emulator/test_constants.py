"""Constant expressions in PTX, and instructions whose operands they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferrum_numba.emulator.constants import constant
from ferrum_numba.errors import PtxError

from .harness import compiled, entry, run

VALUES = {
    "(3+4)*2": 14,
    "3 + 4 * 2": 11,
    "-7 / 2": -3,
    "-7 % 2": -1,
    "10 - 3 - 2": 5,
    "1 << 4 | 3": 19,
    "~7 & 0xff": 0xF8,
    "!(2 > 1)": 0,
    "!0 + 1": 2,
    "1 ? 2 : 0 ? 3 : 4": 2,
    "0 ? 2 : 0 ? 3 : 4": 4,
    "-1 < 1": 1,
    "-1 < 1U": 0,
    "(.u64)-1 >> 63": 1,
    "-1 >> 63": -1,
    "0b101 ^ 017": 10,
    "0x7fffffffffffffff + 1": -(1 << 63),
    "1 == 1 && 2 != 2 || 4 >= 4": 1,
    "5": 5,
    "-0x10": -16,
}


@pytest.mark.parametrize(("text", "value"), VALUES.items())
def test_expressions(text: str, value: int) -> None:
    assert constant(text) == value


@pytest.mark.parametrize(
    "text", ["", "(", "3 +", "(3", "3 4", "1 ? 2", "1 / 0", "%r1 + 1", "a + 1", "09", "(" * 5000]
)
def test_what_is_no_expression(text: str) -> None:
    assert constant(text) is None


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=8), st.data())
def test_python_agrees(numbers: list[int], data: st.DataObject) -> None:
    signs = [data.draw(st.sampled_from(["+", "-", "*", "<", "=="])) for _ in numbers]
    text = "".join(f"({n}){sign}" for n, sign in zip(numbers, signs, strict=True))[:-1].rstrip("=")
    if sum(sign in "<==" for sign in signs[:-1]) < 2:  # Python chains comparisons, C does not
        wrapped = int(eval(text)) & (1 << 64) - 1
        assert constant(text) == (wrapped - (1 << 64) if wrapped >> 63 else wrapped)


def test_operands_and_offsets() -> None:
    body = """mov.u32 %t1, (3+4)*2; add.u32 %t1, %t1, 1 | 2; setp.eq.u32 %p1, %t1, (1<<4)+1;
    @%p1 st.global.u32 [%q0+(1+2)*4], %t1; st.global.u32 [%q0+4+-4], -(1); @!%p1 trap;"""
    out = np.zeros(4, np.int32)
    run(entry(1, body), out)
    assert out.tolist() == [-1, 0, 0, 17]
    with pytest.raises(PtxError, match=r"\(3\+: not a declared register, literal or symbol"):
        compiled(entry(1, "mov.u32 %t1, (3+;"))
