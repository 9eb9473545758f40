"""Fixes to try where nothing tells what is right but the expected result: for any PTX."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, product

from ..abi.signature import SCRATCH_ROLES
from .case import Case
from .hypothesis import Hypothesis
from .layouts import relaid

_MOST = 600  # pairs that are tried


def blind_guesses(case: Case) -> Iterator[Hypothesis]:
    """Exchanges of two integers or two arrays, strides divided, sizes taken from the arrays."""
    values = case.values
    integers = [
        p.name
        for p in case.signature.params
        if isinstance(values.get(p.name), int) and not p.is_pointer and p.name not in case.arrays
    ]
    pairs = list(combinations(integers, 2))[:_MOST]
    for one, two in pairs:
        if values[one] != values[two]:
            kind = {case.signature[n].role for n in (one, two)}
            yield Hypothesis(
                "strides-swapped" if kind == {"stride"} else "sizes-swapped",
                f"{one} is {values[one]} and {two} is {values[two]}",
                0.2,
                case.with_values(**{one: values[two], two: values[one]}),
                f"{one} = {values[two]} and {two} = {values[one]}",
            )
    for one, two in combinations(case.arrays, 2):
        if isinstance(values.get(one), int) and isinstance(values.get(two), int):
            yield Hypothesis(
                "pointers-swapped",
                f"{one} and {two} are both arrays of the launch",
                0.2,
                case.with_values(**{one: values[two], two: values[one]}),
                f"{one} and {two} exchanged",
            )
    yield from _divided(case, integers)
    yield from _sizes(case, integers)
    yield from _numbers(case)
    yield from _relaid(case)


def _relaid(case: Case) -> Iterator[Hypothesis]:
    """The block in other layouts, though its values do not speak for them."""
    if case.declared.params or not case.values:
        return
    for layout in relaid(case):
        remedy = replace(case, block=layout.block)
        yield Hypothesis(layout.cause, f"{layout.what} it was tried", 0.1, remedy, layout.mended)


def _divided(case: Case, integers: list[str]) -> Iterator[Hypothesis]:
    sizes = sorted({a.values.itemsize for a in case.arrays.values()} - {1})
    for size, name in product(sizes, integers):
        value = case.values[name]
        if value and value % size == 0:
            told = f"{name} is {value}, {size} times {value // size}"
            remedy = case.with_values(**{name: value // size})
            mended = f"{name} = {value // size}"
            yield Hypothesis("strides-in-bytes", told, 0.2, remedy, mended)


def _sizes(case: Case, integers: list[str]) -> Iterator[Hypothesis]:
    extents = sorted({n for array in case.arrays.values() for n in array.values.shape})
    for extent, name in product(extents, integers):
        if extent != case.values[name]:
            told = f"{name} is {case.values[name]}, and {extent} is an extent of an array"
            remedy = case.with_values(**{name: extent})
            kind = "stride-wrong" if case.signature[name].role == "stride" else "size-wrong"
            yield Hypothesis(kind, told, 0.15, remedy, f"{name} = {extent}")


def _numbers(case: Case) -> Iterator[Hypothesis]:
    """Pointers that are NULL in the block, though an array is known by that name."""
    for p in case.signature.params:
        if p.role not in SCRATCH_ROLES and case.values.get(p.name) == 0 and p.name in case.arrays:
            address = case.arrays[p.name].address
            told = f"{p.name} is NULL"
            remedy = case.with_values(**{p.name: address})
            yield Hypothesis("pointer-null", told, 0.5, remedy, "its array's address")
