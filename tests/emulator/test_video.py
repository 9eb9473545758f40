"""SIMD video instructions, against NumPy."""

from __future__ import annotations

import operator

import numpy as np
import pytest

from ferrum_numba.errors import PtxError
from tests.campaigns.operands import words

from .harness import assert_same, elementwise

TYPES = [f"{d}.{a}.{b}" for d in ("u32", "s32") for a in ("u32", "s32") for b in ("u32", "s32")]
OPERATIONS = {
    "vadd": operator.add,
    "vsub": operator.sub,
    "vavrg": lambda x, y: x + y + (x + y >= 0) >> 1,
    "vabsdiff": lambda x, y: abs(x - y),
    "vmin": np.minimum,
    "vmax": np.maximum,
}
RELATIONS = ("eq", "ne", "lt", "le", "gt", "ge")


def parts(x: np.ndarray, count: int, ptx_type: str) -> np.ndarray:
    """[n, count], as int64."""
    kind = "i" if ptx_type == "s32" else "u"
    return x.view(f"{kind}{4 // count}").reshape(-1, count).astype(np.int64)


def whole(values: np.ndarray, count: int) -> np.ndarray:
    return values.astype(f"u{4 // count}").reshape(-1).view(np.uint32)


def expected(values: np.ndarray, count: int, added: bool, c: np.ndarray) -> np.ndarray:
    if added:
        return (values.sum(axis=1) + c).astype(np.uint32)
    return whole(values, count)


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("saturates", [False, True])
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("name", OPERATIONS)
def test_arithmetic(name: str, count: int, saturates: bool, added: bool) -> None:
    a, b, c = (words(32, 64, seed) for seed in range(3))
    bits = 32 // count
    turn = list(OPERATIONS).index(name) + count // 2 + 2 * saturates + added
    for types in TYPES[turn % 4 :: 4]:  # so that every operation meets all of them
        to, kind_a, kind_b = types.split(".")
        values = OPERATIONS[name](parts(a, count, kind_a), parts(b, count, kind_b))
        if saturates:
            signed = to == "s32"
            low = -(1 << bits - 1) if signed else 0
            values = np.clip(values, low, low + (1 << bits) - 1)
        forms = f"{'.sat' if saturates else ''}{'.add' if added else ''}"
        found = elementwise(f"{name}{count}.{types}{forms} %r, %a, %b, %c;", a, b, c, result="u4")
        assert_same(found, expected(values, count, added, c), a, b, c)


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("relation", RELATIONS)
def test_comparison(relation: str, count: int, added: bool) -> None:
    a, c = (words(32, 64, seed) for seed in range(2))
    b = np.where(np.arange(64) % 3, words(32, 64, 2), a)
    for kind_a, kind_b in (("u32", "u32"), ("s32", "s32"), ("u32", "s32")):
        x, y = parts(a, count, kind_a), parts(b, count, kind_b)
        values = getattr(operator, relation)(x, y).astype(np.int64)
        text = f"vset{count}.{kind_a}.{kind_b}.{relation}{'.add' if added else ''} %r, %a, %b, %c;"
        found = elementwise(text, a, b, c, result="u4")
        assert_same(found, expected(values, count, added, c), a, b, c)


@pytest.mark.parametrize(
    "instruction",
    [
        "vadd4.u32.u32 %r, %a, %b, %c;",
        "vadd4.u32.u32.u16 %r, %a, %b, %c;",
        "vadd4.u32.u32.u32 %r, %a, %b;",
        "vset4.u32.u32 %r, %a, %b, %c;",
        "vmin2.s32.s32.s32 %r.h0, %a, %b, %c;",
    ],
)
def test_what_is_refused(instruction: str) -> None:
    a = words(32, 32)
    with pytest.raises(PtxError):
        elementwise(instruction, a, a, a, result="u4")
