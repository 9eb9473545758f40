"""Fixes to try where nothing tells what is right but the expected result: for any PTX."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, permutations, product

from ..abi.signature import COMPUTED_ROLES, SCRATCH_ROLES
from .block import is_plausible
from .case import Case, read_block
from .hypothesis import Hypothesis
from .layouts import relaid

_MOST = 600  # pairs that are tried
_LONGEST = 16  # neighbouring integers that are taken to be strides of one kind


def blind_guesses(case: Case) -> Iterator[Hypothesis]:
    """Exchanges of two integers or two arrays, strides divided, sizes taken from the arrays."""
    values = case.values
    integers = [
        p.name
        for p in case.signature.params
        if isinstance(values.get(p.name), int)
        and not (p.is_pointer or p.role in COMPUTED_ROLES or p.name in case.arrays)
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
    yield from _moved(case)
    yield from _divided(case, integers)
    yield from _sizes(case, integers)
    yield from _numbers(case)
    yield from _floats(case)
    yield from _farther(case)
    yield from _relaid(case)


def _moved(case: Case) -> Iterator[Hypothesis]:
    """Two addresses exchanged, or one of them moved to another place among them."""
    values = case.values
    names = [n for n in case.arrays if isinstance(values.get(n), int)]
    for one, two in list(combinations(names, 2))[:_MOST]:
        exchanged = case.with_values(**{one: values[two], two: values[one]})
        if all(case.arrays[name].address == values[name] for name in (one, two)):
            # The arrays are known by the parameters that took them: they change names as well, so
            # that what comes out is looked for where the output points now.
            arrays = {**case.arrays, one: case.arrays[two], two: case.arrays[one]}
            exchanged = replace(exchanged, arrays=arrays)
        yield Hypothesis(
            "pointers-swapped",
            f"{one} and {two} are both arrays of the launch",
            0.2,
            exchanged,
            f"{one} and {two} exchanged",
        )
    for here, there in list(permutations(range(len(names)), 2))[:_MOST]:
        if abs(here - there) > 1:
            order = [n for n in names if n != names[here]]
            order.insert(there, names[here])
            moved = {name: values[other] for name, other in zip(names, order, strict=True)}
            told = f"the addresses in the order {', '.join(order)} were tried"
            mended = f"the order {', '.join(order)}"
            yield Hypothesis("pointers-swapped", told, 0.15, case.with_values(**moved), mended)


def _relaid(case: Case) -> Iterator[Hypothesis]:
    """The block in other layouts, though its values do not speak for them."""
    if case.declared.params or not case.values:
        return
    for layout in relaid(case):
        values = read_block(layout.block, case.signature.params)
        if not all(is_plausible(p, values[p.name]) for p in case.signature.params if not p.pointer):
            continue
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
    for size, (first, last) in product(sizes, combinations(range(len(integers) + 1), 2)):
        run = {n: case.values[n] // size for n in integers[first:last] if case.values[n]}
        if 1 < len(run) < _LONGEST and all(case.values[n] == v * size for n, v in run.items()):
            told = f"{', '.join(run)} are {size} times {', '.join(map(str, run.values()))}"
            mended = ", ".join(f"{n} = {v}" for n, v in run.items())
            yield Hypothesis("strides-in-bytes", told, 0.2, case.with_values(**run), mended)


def _sizes(case: Case, integers: list[str]) -> Iterator[Hypothesis]:
    extents = sorted({n for array in case.arrays.values() for n in array.values.shape})
    for extent, name in product(extents, integers):
        if extent != case.values[name]:
            told = f"{name} is {case.values[name]}, and {extent} is an extent of an array"
            remedy = case.with_values(**{name: extent})
            kind = "stride-wrong" if case.signature[name].role == "stride" else "size-wrong"
            yield Hypothesis(kind, told, 0.15, remedy, f"{name} = {extent}")

    same = {
        v: [n for n in integers if case.values[n] == v] for v in set(map(case.values.get, integers))
    }
    for extent, (value, names) in product(extents, same.items()):
        if len(names) > 1 and extent != value:
            told = f"{', '.join(names)} are {value}, and {extent} is an extent of an array"
            remedy = case.with_values(**dict.fromkeys(names, extent))
            yield Hypothesis("size-wrong", told, 0.15, remedy, f"{' = '.join(names)} = {extent}")


def _floats(case: Case) -> Iterator[Hypothesis]:
    """Floats replaced by such as kernels are often given: an epsilon, a factor."""
    for p in case.signature.params:
        value = case.values.get(p.name)
        if not isinstance(value, float):
            continue
        others = {0.0, 1.0, 1e-5, 1e-6}
        if 1e-20 < abs(value) < 1e20:
            others |= {-value, 1 / value}
        for other in sorted(others - {value}, key=lambda x: (x < 0, x)):
            data = struct.pack("<f" if p.size == 4 else "<d", other)
            block = case.block[: p.offset] + data + case.block[p.offset + p.size :]
            told = f"{p.name} is {value:.6g}, and {other:.6g} was tried"
            remedy = replace(case, block=block)
            yield Hypothesis("number-wrong", told, 0.2, remedy, f"{p.name} = {other:.6g}")


def _farther(case: Case) -> Iterator[Hypothesis]:
    """Addresses some rows into an array that has more rows than another array's extents ask for."""
    for name, array in case.arrays.items():
        rows = array.values.shape[0] if array.values.ndim > 1 else 0
        others = {n for m, a in case.arrays.items() if m != name for n in a.values.shape}
        for extent in sorted(n for n in others if n < rows)[-4:]:
            address = array.address + (rows - extent) * array.values.strides[0]
            told = f"{name} has {rows} rows, and the last {extent} of them were tried"
            remedy = case.with_values(**{name: address})
            mended = f"{name} {rows - extent} rows into its array"
            yield Hypothesis("pointer-offset", told, 0.15, remedy, mended)


def _numbers(case: Case) -> Iterator[Hypothesis]:
    """Pointers that are NULL in the block, though an array is known by that name."""
    for p in case.signature.params:
        if p.role not in SCRATCH_ROLES and case.values.get(p.name) == 0 and p.name in case.arrays:
            address = case.arrays[p.name].address
            told = f"{p.name} is NULL"
            remedy = case.with_values(**{p.name: address})
            yield Hypothesis("pointer-null", told, 0.5, remedy, "its array's address")
