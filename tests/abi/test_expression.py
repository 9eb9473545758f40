from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ferrum_numba as fe
from ferrum_numba.abi import expression


@given(st.integers(0, 2**31), st.integers(1, 2**20))
def test_arithmetic(m: int, block: int) -> None:
    values = {"M": m, "B": block}
    assert expression("cdiv(M, B)")(values) == (m + block - 1) // block
    assert expression("max(M, B) - min(M, B)")(values) == abs(m - block)
    assert expression("M % B == M - M // B * B")(values) == 1
    assert expression("-M + B * 2 < 0 and M >= B or M != B")(values) in (0, 1)


def test_names_and_show() -> None:
    rule = expression("cdiv(K, group_size)")
    assert rule.names == {"K", "group_size"}
    assert rule.show({"K": 3, "group_size": 2, "M": 1}) == "K = 3, group_size = 2"


@pytest.mark.parametrize(
    "text",
    ["", "__import__('os')", "M ** 999999", "M.bit_length()", "1.5", "'a'", "M if N else K",
     "f(M, N)", "M <", "lambda: 0", "[M]", "cdiv(M)", "True", "-" * 300 + "M", "M + " * 99 + "M"],
)  # fmt: skip
def test_nothing_else_is_evaluated(text: str) -> None:
    with pytest.raises(fe.AbiError, match="expression"):
        expression(text)


def test_missing_name_and_division_by_zero() -> None:
    with pytest.raises(
        fe.AbiError, match="N: expected a value, since a rule of the sidecar reads it"
    ):
        expression("M + N")({"M": 1})
    with pytest.raises(fe.AbiError, match=r"cdiv\(M, G\): division by zero; G = 0, M = 1"):
        expression("cdiv(M, G)")({"M": 1, "G": 0})


def test_names_of_which_more_is_read_than_if_they_are_0() -> None:
    """Not those that are only compared with it."""
    assert expression("c != 0 or wide == 0").weighed == set()
    assert expression("c != 0 or c % 16 == 0").weighed == {"c"}
    assert expression("min(c, M) > 0 or wide == 1").weighed == {"c", "M", "wide"}
    assert expression("a or b != 0").weighed == {"a"}
